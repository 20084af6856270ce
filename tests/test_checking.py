"""Every function of lens_fv is checked whenever a test calls it: plain types, shapes, what it returns."""

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from checking import beartyped, jaxtyped
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.texts import nfc
from lens_fv.vectors.decode import ranks_of

check = jaxtyped(typechecker=beartyped)


@check
def halve(n: int) -> int:
    return n / 2  # type: ignore[return-value]


@check
def cut(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return x[:-1]


@check
def both(pair: tuple[Float[Tensor, " n"], Float[Tensor, " n"]]) -> None:
    pass


def test_plain_types():
    with pytest.raises(BeartypeCallHintViolation, match="text"):
        nfc(3)  # type: ignore[arg-type]
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        halve(3)


def test_shapes():
    with pytest.raises(BeartypeCallHintViolation, match="logits"):
        ranks_of(torch.zeros(3), [1])
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        cut(torch.zeros(3))
    with pytest.raises(BeartypeCallHintViolation, match="pair"):
        both((torch.zeros(3), torch.zeros(4)))
