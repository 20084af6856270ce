"""The page's first section: the verdict on each claim."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from lens_fv.core.statistics import Estimate
from lens_fv.studies.page.markdown import NONE, Block, interval, points, table, verdict
from lens_fv.studies.relational.page.pooling import analogy_scores, result_scores, typicality_scores
from lens_fv.studies.relational.page.recorded import Recorded
from lens_fv.studies.relational.page.summaries import decoded
from lens_fv.studies.relational.page.words import CLAIMS

PLAIN = ("temperature", "one_shot")
BOTH = ("one_shot_temperature", "one_shot")
BEST = ("temperature", "best")
FULL = ("full", "temperature")


class Tested(NamedTuple):
    """A difference that a claim predicts to be positive.

    Attributes:
        claim: The claim.
        difference: The difference, in words.
        measured: Returns the difference in a run; None if it was not measured.
        say: Formats the difference with its interval.
    """

    claim: str
    difference: str
    measured: Callable[[Recorded], Estimate | None]
    say: Callable[[Estimate], str]


def claims(runs: Sequence[Recorded]) -> list[Block]:
    """Every claim on every model, tested as a difference that should be positive."""
    rows: list[list[object]] = []
    for each in TESTED:
        found = [each.measured(run) for run in runs]
        if any(found):
            rows.append([each.claim, each.difference, *(f"{each.say(e)}: {verdict(e)}" if e else NONE for e in found)])
    return [CLAIMS, table(["claim", "difference", *(run.name for run in runs)], rows, words=2 + len(runs))] if rows else []


def _completion(one: str, other: str, run: Recorded) -> Estimate | None:
    return result_scores(run.part("completion"), "top1").difference(one, other)


def _decoding(how: str, of: str, run: Recorded) -> Estimate | None:
    found = decoded(run.part("decoding"), how, of, "best_reciprocal")
    return found and found.difference


def _typicality(one: str, other: str, run: Recorded) -> Estimate | None:
    return typicality_scores(run.part("alignment")).difference(one, other)


def _analogies(measure: str, one: str, other: str, run: Recorded) -> Estimate | None:
    return analogy_scores(run.part("analogies"), "relations", measure).difference(one, other)


_nats = partial(interval, signed=True)
_ranks = partial(interval, digits=3, signed=True)
A, B, C, D = "(a) completes", "(b) decodes", "(c) agrees with people", "(d) solves analogies"
TESTED = (
    Tested(A, "tuned - extracted, first token (points)", partial(_completion, "tuned", "extracted"), points),
    Tested(A, "tuned - few-shot prompt, first token (points)", partial(_completion, "tuned", "k_shot"), points),
    Tested(B, "tuned - extracted, 1 / rank of the best answer", partial(_decoding, "plain", "answers"), _ranks),
    Tested(B, "the same, read through the layers behind", partial(_decoding, "through", "answers"), _ranks),
    Tested(B, "tuned - extracted, 1 / rank of the best word for the relation", partial(_decoding, "plain", "words"), _ranks),
    Tested(B, "the same, read through the layers behind", partial(_decoding, "through", "words"), _ranks),
    Tested(C, "tuned - extracted, typicality by log-probability", partial(_typicality, "tuned", "extracted"), _nats),
    Tested(C, "the same, by what vectors add to it", partial(_typicality, "tuned gain", "extracted gain"), _nats),
    Tested(C, "the same, by the pair's direction", partial(_typicality, "tuned direction", "extracted direction"), _nats),
    Tested(C, "tuned - tuned on wrong answers, by log-probability", partial(_typicality, "tuned", "shuffled"), _nats),
    Tested(D, "composite - one-shot prompt, first token (points)", partial(_analogies, "top1", *PLAIN), points),
    Tested(D, "the same, nats a token", partial(_analogies, "logprob", *PLAIN), _nats),
    Tested(D, "prompt and composite - prompt, nats a token", partial(_analogies, "logprob", *BOTH), _nats),
    Tested(D, "composite - the one best vector, nats a token", partial(_analogies, "logprob", *BEST), _nats),
    Tested(D, "full matrix - one temperature, nats a token", partial(_analogies, "logprob", *FULL), _nats),
)
