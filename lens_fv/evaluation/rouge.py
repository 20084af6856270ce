"""How much of its wording a text shares with an answer."""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any
from unicodedata import category

from lens_fv.core.texts import nfc
from lens_fv.errors import LensFVError


def rouge_l(text: str, answers: Sequence[str]) -> float:
    """ROUGE-L of a text against the acceptable answer that suits it best (Lin 2004, sentence level), from 0 to 1.

    With `m` words in the text, `n` in the answer and `l` in their longest common subsequence, precision is `P = l/m`, recall
    `R = l/n`, and the score is `F = 2PR/(P + R)`: Lin's F measure with beta = 1. No stemming, no stop words.

    Words are lower-cased runs of letters, digits and the marks on them, in canonical composition (NFC). So a script without
    blanks between words (Chinese, Thai) has one word from one punctuation mark to the next.

    Args:
        text: what was written.
        answers: acceptable answers, at least one.

    Raises:
        LensFVError: no answer, or a text in place of a list of them.

    Example:
        >>> from lens_fv.evaluation import rouge_l
        >>> round(rouge_l("The cat sat.", ["a cat sat down", "nothing"]), 3)
        0.571
    """
    if isinstance(answers, str) or not answers:  # a text is a sequence of its letters
        raise LensFVError(f"ROUGE-L against {answers!r}: give a list of acceptable answers, at least one")
    metric = _metric()(alpha=0.5)  # beta = 1
    scores: list[float] = []
    for answer in answers:  # one by one: of several, pytorch-ignite takes the one with the best recall
        metric.reset()
        metric.update(([words(text)], [[words(answer)]]))
        scores.append(metric.compute()["Rouge-L-F"])
    return max(scores)


def words(text: str) -> list[str]:
    """What `rouge_l` compares: the words of a text, in order."""
    return "".join(c if c.isalnum() or category(c)[0] == "M" else " " for c in nfc(text).lower()).split()


@cache
def _metric() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own optimisers, which ignite imports
        from ignite.metrics import RougeL
    return RougeL
