"""ROUGE-L, the overlap in wording between a text and an answer."""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any
from unicodedata import category

from lens_fv.core.texts import nfc
from lens_fv.errors import LensFVError


def rouge_l(text: str, answers: Sequence[str]) -> float:
    """Compute ROUGE-L of a text against its best-matching acceptable answer (Lin 2004, sentence level), from 0 to 1.

    With `m` words in the text, `n` in the answer and `l` in their longest common subsequence, precision is `P = l/m`, recall
    `R = l/n`, and the score is `F = 2PR/(P + R)`: Lin's F measure with beta = 1. No stemming, no stop words.

    Words are lower-cased runs of letters, digits and combining marks, in canonical composition (NFC). In scripts without
    spaces between words (Chinese, Thai), the text between two punctuation marks is a single word.

    Args:
        text: Generated text.
        answers: Acceptable answers, at least one.

    Raises:
        LensFVError: no answer, or a string instead of a list of answers.

    Example:
        >>> from lens_fv.evaluation import rouge_l
        >>> round(rouge_l("The cat sat.", ["a cat sat down", "nothing"]), 3)
        0.571
    """
    if isinstance(answers, str) or not answers:  # a string is a sequence of its characters
        raise LensFVError(f"ROUGE-L against {answers!r}: give a list of acceptable answers, at least one")
    metric = _metric()(alpha=0.5)  # beta = 1
    scores: list[float] = []
    for answer in answers:  # one by one, because pytorch-ignite would pick the answer with the best recall
        metric.reset()
        metric.update(([words(text)], [[words(answer)]]))
        scores.append(metric.compute()["Rouge-L-F"])
    return max(scores)


def words(text: str) -> list[str]:
    """Split a text into the words that `rouge_l` compares, in order."""
    return "".join(c if c.isalnum() or category(c)[0] == "M" else " " for c in nfc(text).lower()).split()


@cache
def _metric() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from torch's own optimisers, imported by ignite
        from ignite.metrics import RougeL
    return RougeL
