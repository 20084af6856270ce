"""The run-time checks of lens_fv's functions: beartype's, with jaxtyping's shapes where there are any to compare.

A plugin of pytest, so that it is there before lens_fv is imported.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import wraps
from inspect import isgeneratorfunction
from itertools import chain
from types import CodeType, FunctionType
from typing import Any, get_args

import jaxtyping
from beartype import beartype

_jaxtyped = jaxtyping.jaxtyped
_nested: dict[CodeType, Callable[..., Any]] = {}
"""The checks of functions inside others, which are decorated whenever the function around them runs."""
_called = threading.local()


def jaxtyped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """The checks of `jaxtyping.jaxtyped` without its cost: for every call that binds the arguments and checks them twice.

    Its context is what makes shapes hold among a function's arguments and what it returns; only a shape that is computed from
    an argument (`{n}`) would need more.
    """

    def decorate(thing: Any) -> Any:
        if isinstance(thing, type) and getattr(thing.__init__, "__globals__", None) is globals():
            return thing  # what checks its options has been put around a constructor that is checked already
        if not isinstance(thing, FunctionType) or isgeneratorfunction(thing):
            return _jaxtyped(thing, typechecker=typechecker)
        if "<locals>" not in thing.__qualname__ or thing.__defaults__ or thing.__kwdefaults__:
            return _checked(thing)
        if thing.__code__ not in _nested:
            _nested[thing.__code__] = _checked(_whichever(thing))
        checked = _nested[thing.__code__]

        @wraps(thing)
        def call(*args: Any, **options: Any) -> Any:
            _called.now = thing
            return checked(*args, **options)

        return call

    return decorate


def _whichever(nested: Callable[..., Any]) -> Callable[..., Any]:
    """What calls that one of the functions of the same code that has been asked for: nothing else is called in between."""

    @wraps(nested)
    def call(*args: Any, **options: Any) -> Any:
        return _called.now(*args, **options)

    return call


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    parts = list(_parts(list(function.__annotations__.values())))
    if any(isinstance(part, str) for part in parts):  # what is in quotes jaxtyping passes over
        return _jaxtyped(function, typechecker=beartyped)
    checked = beartype(function)
    shapes = any(isinstance(part, type) and issubclass(part, jaxtyping.AbstractArray) for part in parts)
    around = _jaxtyped("context") if shapes else nullcontext()

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **options)
        with around:
            return checked(*args, **options)

    return call


def _parts(annotation: Any) -> Iterator[Any]:
    """What an annotation is made of."""
    inside = annotation if isinstance(annotation, list) else get_args(annotation)  # a list: the arguments of a Callable
    return chain([annotation], *map(_parts, inside))


def beartyped(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype` for the empty functions that jaxtyping makes, one with and one without the return value.

    In the first what was passed has been checked already: it is called after the function, with what that returned.
    """
    takes = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
    if function.__annotations__.get("return", Any) is not Any and any(name.startswith("ret") for name in takes):
        function.__annotations__ = {"return": function.__annotations__["return"]}
    return beartype(function)


jaxtyping.jaxtyped = jaxtyped  # what its import hook decorates with
