"""The run-time checks of lens_fv's functions: jaxtyping's where there are shapes to compare, beartype's alone elsewhere.

A plugin of pytest, so that it is there before lens_fv is imported.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from types import FunctionType
from typing import Any, get_args

import jaxtyping
from beartype import beartype

_jaxtyped = jaxtyping.jaxtyped


def jaxtyped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """`jaxtyping.jaxtyped` for what has shapes; for all other functions the same checks without its cost.

    For every call jaxtyping binds the arguments and checks them twice. Few functions have shapes: it is a sixth of all tests'
    time.
    """

    def decorate(thing: Any) -> Any:
        nested = "<locals>" in getattr(thing, "__qualname__", "")
        if nested or not isinstance(thing, FunctionType) or any(map(_has_shape, thing.__annotations__.values())):
            return _jaxtyped(thing, typechecker=typechecker)
        checked = beartype(thing)

        @wraps(thing)
        def call(*args: Any, **options: Any) -> Any:
            return (thing if jaxtyping.config.jaxtyping_disable else checked)(*args, **options)

        return call

    return decorate


def _has_shape(annotation: Any) -> bool:
    """Whether it is an array's, or has one's inside; of an annotation in quotes nobody knows."""
    if isinstance(annotation, list):  # the arguments of a Callable
        return any(map(_has_shape, annotation))
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return isinstance(annotation, str) or any(map(_has_shape, get_args(annotation)))


def beartyped(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype`, remembered for nested functions, which jaxtyping decorates each time that the function around them runs.

    What jaxtyping hands over are empty functions of the same signature (two for each, with and without the return value), so
    one result serves all functions that are called alike. Defaults are checked when a function is decorated, so functions that
    have any are not remembered.
    """
    takes = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
    if function.__annotations__.get("return", Any) is not Any and any(name.startswith("ret") for name in takes):
        # What was passed has been checked already: this one is called after the function, with what that returned.
        function.__annotations__ = {"return": function.__annotations__["return"]}
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


jaxtyping.jaxtyped = jaxtyped  # what its import hook decorates with
