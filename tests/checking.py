"""The type checker that jaxtyping puts around every function of lens_fv: beartype, made once for each signature."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from beartype import beartype


def beartyped(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype`, remembered for nested functions, which jaxtyping decorates each time that the function around them runs.

    What jaxtyping hands over are empty functions of the same signature (two for each, with and without the return value), so
    one result serves all functions that are called alike. Defaults are checked when a function is decorated, so functions that
    have any are not remembered.
    """
    if "<locals>" not in function.__qualname__ or function.__defaults__ or function.__kwdefaults__:
        return beartype(function)
    return _remembered(_Signature(function))


class _Signature:
    """Functions that are called alike are equal."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._key = (function.__module__, function.__qualname__, function.__code__, *function.__annotations__.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Signature) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=1000)  # shapes are a new type wherever they are written, so some are never found again
def _remembered(signature: _Signature) -> Callable[..., Any]:
    return beartype(signature.function)
