"""The page's fixed texts and its names for conditions."""

from collections.abc import Mapping

HOW = """\
Every number is a mean over relations of means over seeds (of analogies: over a relation's analogies), and behind it,
in brackets, its 95 % bootstrap interval over relations: what another set of relations would give. Differences are
taken relation by relation. Numbers of test pairs differ between relations, which all count the same. "–" is what was
not measured."""

CLAIMS = """\
## What holds

Each claim as a difference that should be above 0, with its interval: it holds if all of the interval is above. The
composite is the one with a fitted temperature, on relations that no map has seen."""

COMPLETION = """\
## Completion

A vector is added at the last token of zero-shot prompts of test pairs; what could be chosen was chosen on validation
pairs. First-token accuracy. The vectors tuned on wrong answers are of the first seed alone."""

TUNING = """\
## What tuning depends on

One thing is varied at a time, around the middle layer and the study's number of pairs, with the first
seed."""

BASELINES = """\
## Other kinds

Made from the same training pairs, chosen on the same validation pairs, with the first seed."""

CARRYING = """\
## Norms behind attention

First-token accuracy of extracted vectors. In a model without such a norm the first two ways are the same."""

LISTS = """\
## Do vectors add up?

Given a list of three inputs, the task is the last one's output. Its vector is predicted from three other tasks' (Todd
et al. 2024) and stands beside these and the one made for the task. First-token accuracy on test lists; all vectors at
the middle layer, of the first seed."""

TRANSFER = """\
## Every vector on every relation

Tuned vectors of the first seed, tried on a few test pairs of every relation. The last column is the share of
relations on which no other vector does better than their own."""

DECODING = """\
## What vectors decode into

Vectors through the model's unembedding: ranks, in the whole vocabulary, of words that name the relation and of its
test answers. Through: not straight, but what a vector adds to log-probabilities behind all layers, on prompts whose
input says nothing. Centred: less the mean over relations. Each seed is tested by itself (Wilcoxon's signed ranks over
relations): means are over seeds, the interval reaches over those of all seeds, p is the largest. Decoding is no proxy
for steering."""

TYPICALITY = """\
### Typicality

Spearman's correlation of each measure with people's ratings of pairs that no vector was made from, within relations
of SemEval-2012 Task 2; mean over relations and seeds. A kind of vector alone: log-probability of B behind A with it;
gain: what it adds; direction: cosine of the pair's own difference to it; profile: cosine of composites' weights;
none: log-probability without a vector; embedding: cosine to the examples' mean difference."""

TAXONOMIES = """\
### Taxonomies

The chance that two relations of the same class have more similar vectors than two of different classes (AUC; 0.5 is
chance). AUC is the mean over seeds; p, by relabelling relations, the largest of any seed. Composites are mixed from
other relations' vectors; weights are theirs; embedding is the static baseline."""

ANALOGIES = """\
## Analogies

A:B::C:? solved by mixing other relations' tuned vectors (of the first seed), as A:B asks for; an analogy's own
relation has no weight. Every relation is held out once; maps are fitted on the others. Log-probability: of the best
acceptable answer, in nats a token. Choice: of two, by log-probability; calibrated: less what each choice has without
a vector."""

CONFIDENCE = """\
### Confidence

Is it known beforehand, from A:B and the weights alone, when a composite makes the answer likelier than the one-shot
prompt does? Learned on the other folds."""

CONDITIONS: Mapping[str, str] = {
    "none": "no vector",
    "k_shot": "few-shot prompt",
    "extracted": "extracted vector",
    "heads": "the same heads, each in its layer",
    "extracted_matched": "extracted, at the tuned vector's layer and length",
    "tuned": "tuned vector",
    "shuffled": "tuned on wrong answers",
    "random": "random vector",
    "naive": "summed, norm passed over",
    "carried": "summed, carried through the norm",
    "distributed": "heads in their layers, scale chosen",
    "mean_state": "mean state of few-shot prompts",
    "mean_difference": "mean state, less zero-shot",
    "task_state": "state of one prompt, replaced",
    "head_weights": "learned head weights",
    "soft_prompt": "soft prompt",
    "lora": "low-rank adapter",
    "mean": "mean of the basis",
    "best": "the one best vector",
    "composite": "composite",
    "temperature": "composite, temperature fitted",
    "diagonal": "composite, diagonal fitted",
    "full": "composite, full matrix fitted",
    "matched": "composite, at the best vector's length",
    "other_source": "composite of another analogy",
    "random_basis": "its weights on random vectors",
    "one_shot": "one-shot prompt",
    "one_shot_composite": "one-shot prompt and composite",
    "one_shot_temperature": "one-shot prompt and composite, temperature fitted",
    "one_shot_diagonal": "one-shot prompt and composite, diagonal fitted",
    "one_shot_full": "one-shot prompt and composite, full matrix fitted",
    "first_output": "v(first, output)",
    "last_copy": "v(last, copy)",
    "first_copy": "v(first, copy)",
    "direct": "made for the task",
    "predicted": "v(first, output) + v(last, copy) - v(first, copy)",
}


def labelled(condition: str) -> str:
    """The name of a condition in words."""
    return CONDITIONS.get(condition, condition)
