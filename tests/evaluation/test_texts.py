"""ROUGE-L against a plain loop, texts against the model's own."""

from dataclasses import replace

import pytest
from helpers import toy_task

from lens_fv import load_artefact
from lens_fv.errors import LensFVError
from lens_fv.evaluation import TextEvaluation, estimate, evaluate_texts, proportion, rouge_l
from lens_fv.evaluation.texts import cut_answer
from lens_fv.tasks import TEMPLATES, TODD, Pair, PromptTemplate, Task, few_shot, split_pairs, zero_shot
from lens_fv.vectors import random_like, tune
from lens_fv.vectors.baselines import train_soft_prompt


def longest_common(a, b):
    """Every subsequence is tried, longest first: no dynamic programming."""
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest_common(a[1:], b[1:])
    return max(longest_common(a[1:], b), longest_common(a, b[1:]))


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("the cat is not there", ["the cat is on the mat", "there is a cat on the mat"]),
        ("a b c", ["a", "a b c d"]),  # the answer with the best recall is not the one with the best F1
        ("x y b a", ["a b x y", "b a"]),
        ("one", ["one"]),
        ("", ["one two", "three"]),
        ("nothing in common", ["quite another one"]),
        ("a a a b", ["a b b a"]),
    ],
)
def test_rouge_l_is_the_closed_form(text, answers):
    def f1(answer):
        m, n = len(text.split()), len(answer.split())
        return 2 * longest_common(text.split(), answer.split()) / (m + n)

    assert rouge_l(text, answers) == pytest.approx(max(map(f1, answers)), abs=1e-12)


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("The CAT, sat!", "the cat sat", 1),
        ("un été à Genève", "UN ÉTÉ A GENÈVE", 0.75),  # accents are letters of their words
        ("e\u0301te\u0301", "\u00e9t\u00e9", 1),  # however they are encoded
        ("हिन्दी भाषा", "हिन्दी बोली", 0.5),  # vowel signs do not part words
        ("don't go_on", "don t go on", 1),
        ("?!", "what", 0),
    ],
)
def test_words(text, answer, score):
    assert rouge_l(text, [answer]) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(("answers", "message"), [("one two", "several, each a str"), ([], "give at least one")])
def test_answers_are_a_list(answers, message):
    with pytest.raises(LensFVError, match=message):
        rouge_l("one", answers)


@pytest.mark.parametrize(
    ("text", "template", "answer"),
    [
        (" warm\n\nQ: big\nA: small", TODD, "warm"),
        (" warm\nand more", TODD, "warm"),
        ("\n warm", TODD, ""),
        (" warm", TODD, "warm"),
        (" Dr. No.\nFor", TEMPLATES["natural"], "Dr. No"),
        (" Dr. No.", TEMPLATES["natural"], "Dr. No"),
        (" the U.S..\nFor", TEMPLATES["natural"], "the U.S."),
        (" warm; big", PromptTemplate(separator="; "), "warm"),
        (" warm\nbig", PromptTemplate(separator=""), "warm"),
    ],
)
def test_where_an_answer_ends(text, template, answer):
    assert cut_answer(text, template) == answer


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def task(model):
    """Pairs of which the model writes some itself: what it says is an answer, else every score would be 0."""
    pairs = toy_task(24).pairs
    continuations = model.generate([zero_shot(pair).text for pair in pairs], max_new_tokens=6)
    cut = [cut_answer(text, TODD) for text in continuations]
    usable = [text if any(map(str.isalnum, text)) else "none" for text in cut]
    outputs = [
        (pair.output, text) if i % 2 else (f"{text} {pair.output}",) for i, (pair, text) in enumerate(zip(pairs, usable))
    ]
    return Task("free", tuple(Pair(pair.input, tuple(dict.fromkeys(o))) for pair, o in zip(pairs, outputs, strict=True)))


@pytest.fixture(scope="module")
def vector(model, task):
    return tune(model, task, n_pairs=4, steps=2, layers=1, split=split_pairs(task))


def test_texts_are_what_the_model_writes_and_results_are_theirs(model, task, vector, tmp_path):
    strong = random_like(vector).at(scale=40.0)
    soft = train_soft_prompt(model, task, n_pairs=4, steps=2, n_tokens=2)
    given = {"tuned": vector, "strong": strong, "soft": soft}
    evaluation = evaluate_texts(model, task, given, n_shots=2, max_new_tokens=6, instruction="Say it.")
    assert evaluation.conditions == ("none", "k_shot", *given)
    items = split_pairs(task).test
    assert evaluation.inputs == tuple(pair.input for pair in items)
    plain = [zero_shot(pair, instruction="Say it.").text for pair in items]

    def written(prompt):
        return cut_answer(model.generate(prompt, max_new_tokens=6), TODD)

    assert [row[0] for row in evaluation.texts] == [written(prompt) for prompt in plain]
    for at, intervention in enumerate(given.values(), 2):
        with intervention.applied(model):
            assert [row[at] for row in evaluation.texts] == [written(prompt) for prompt in plain]
    assert any(row[3] != row[0] for row in evaluation.texts)

    for i, pair in enumerate(items):
        for j, text in enumerate(evaluation.texts[i]):
            assert evaluation.rouge_l[i, j] == rouge_l(text, pair.outputs)
            assert evaluation.exact[i, j] == (text in pair.outputs)
    for j, result in enumerate(evaluation.results):
        scores = evaluation.rouge_l[:, j].tolist()
        hits = int(evaluation.exact[:, j].sum())
        assert result.rouge_l == estimate(scores, seed=0)
        assert result.rouge_l.mean == pytest.approx(sum(scores) / len(items))
        assert result.exact_match == proportion(hits, len(items))
        assert result.condition in repr(evaluation)
    again = load_artefact(evaluation.save(tmp_path / "texts.safetensors"))
    assert isinstance(again, TextEvaluation)
    assert (again.texts, again.results) == (evaluation.texts, evaluation.results)


def test_what_the_model_says_anyway_scores(model, task):
    """Half of the pairs accept just that, the others that and a word more."""
    evaluation = evaluate_texts(model, task, n_shots=0, max_new_tokens=6)
    assert evaluation["none"] == evaluation["k_shot"]._replace(condition="none")  # no shots: the same prompts
    right = [evaluation.texts[i][0] in pair.outputs for i, pair in enumerate(split_pairs(task).test)]
    assert any(right)
    assert evaluation.exact[:, 0].tolist() == right
    assert evaluation.rouge_l[right, 0].tolist() == [1.0] * sum(right)
    assert evaluate_texts(model, task, n_shots=0, max_new_tokens=6, max_items=2).inputs == evaluation.inputs[:2]


def test_demonstrations_come_from_the_training_part(model, task, monkeypatch):
    prompts_run = []
    write = type(model).generate

    def watched(self, prompts, **options):
        prompts_run.extend(tuple(prompt) for prompt in prompts)
        return write(self, prompts, **options)

    monkeypatch.setattr(type(model), "generate", watched)
    monkeypatch.setattr("lens_fv.evaluation.texts.ROWS", 2)
    evaluation = evaluate_texts(model, task, n_shots=1, max_new_tokens=3, max_items=3)
    split = split_pairs(task)
    possible = [{tuple(model.encode(few_shot(q, [s]).text)) for s in split.train} for q in split.test[:3]]
    for pair, texts, prompts in zip(split.test, evaluation.texts, possible, strict=False):
        assert len(prompts & set(prompts_run)) == 1
        (shown,) = prompts & set(prompts_run)
        assert texts[1] == cut_answer(write(model, [list(shown)], max_new_tokens=3)[0], TODD), pair.input
    assert len(prompts_run) == 6


def test_bad_requests(model, task, vector, tiny_model):
    few = {"n_shots": 0, "max_new_tokens": 2, "max_items": 2}
    with pytest.raises(LensFVError, match="names a control"):
        evaluate_texts(model, task, {"none": vector}, **few)
    with pytest.raises(LensFVError, match="was made on model tiny-llama"):
        evaluate_texts(tiny_model("gpt2"), task, {"tuned": vector}, **few)
    with pytest.raises(LensFVError, match=r"max_new_tokens=0.*at least 1"):
        evaluate_texts(model, task, n_shots=0, max_new_tokens=0)
    with pytest.raises(LensFVError, match="leave room for the new ones"):
        evaluate_texts(model, task, n_shots=0, max_new_tokens=model.n_ctx)
    marks = Task("marks", tuple(Pair(f"{i}", ("+",)) for i in range(12)))
    with pytest.raises(LensFVError, match=r"the output '\+' of .* has no words"):
        evaluate_texts(model, marks, **few)
    lines = Task("lines", tuple(Pair(f"{i}", ("one\ntwo",)) for i in range(12)))
    with pytest.raises(LensFVError, match=r"the output 'one\\ntwo' of .* would be cut to 'one'"):
        evaluate_texts(model, lines, **few)
    split = replace(split_pairs(task), test=())
    with pytest.raises(LensFVError, match="its test split is empty"):
        evaluate_texts(model, task, split=split, **few)
