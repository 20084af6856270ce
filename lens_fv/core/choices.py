"""Validation of options: the choices and ranges stated in a signature are checked when a value is passed."""

import inspect
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from difflib import get_close_matches
from functools import wraps
from math import inf, isinf
from numbers import Integral, Real
from reprlib import repr as brief
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from annotated_types import Ge, Interval

from lens_fv.errors import LensFVError

Whole = Annotated[int, Interval()]
"""Any integer, such as a layer index, which may count from the end."""
Natural = Annotated[int, Ge(0)]
Count = Annotated[int, Ge(1)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
"""Seed of a random generator; the upper limit is NumPy's."""
Finite = Annotated[float, Interval(gt=-inf, lt=inf)]
NonNegative = Annotated[float, Interval(ge=0, lt=inf)]
Positive = Annotated[float, Interval(gt=0, lt=inf)]
Share = Annotated[float, Interval(ge=0, le=1)]
"""A fraction from 0 to 1."""
PartialShare = Annotated[float, Interval(ge=0, lt=1)]
"""A fraction from 0 up to, but not including, 1."""
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
"""A fraction above 0, up to 1."""
Level = Annotated[float, Interval(gt=0, lt=1)]
"""Level of a confidence interval or significance test."""

F = TypeVar("F", bound=Callable[..., Any])
_UNIONS = (UnionType, get_origin(Count | None))
_BOUNDS = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "above"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "below"),
}


def checked(thing: F) -> F:
    """Make a function or dataclass reject values outside the choices and ranges in its signature.

    Annotations are read once. The decorator checks `Literal`, the number types of this module (`Annotated` with bounds from
    annotated-types), and unions, collections and mappings of them; everything else is left to the function. Place it above all
    other decorators except `classmethod` and the like, so that the message is the same with and without a type checker.

    Raises:
        LensFVError: on a call, if a value is not among the choices (the message names the nearest) or is out of range.

    Example:
        >>> @checked
        ... def rank(metric: Literal["prob", "logit"] = "prob", *, seed: Seed = 0) -> None: ...
        >>> rank("logits")
        Traceback (most recent call last):
        lens_fv.errors.LensFVError: rank(metric='logits'): it has to be 'prob' or 'logit'; did you mean 'logit'?
    """
    if isinstance(thing, type):
        decorated: Any = thing
        decorated.__init__ = _checking(decorated.__init__, decorated.__name__)
        return decorated
    return _checking(thing, thing.__qualname__)


def nearest(value: object, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: a suggestion if a known name is close, otherwise empty."""
    near = get_close_matches(str(value).lower(), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def value_rules(function: Callable[..., Any]) -> "dict[str, _Rule]":
    """What the parameters of a function or dataclass accept, by name; those that accept anything are left out."""
    rules = {name: _rule(parameter.annotation) for name, parameter in inspect.signature(function).parameters.items()}
    return {name: rule for name, rule in rules.items() if rule.limits}


def check_values(name: str, rules: "Mapping[str, _Rule]", values: Iterable[tuple[str, Any]]) -> None:
    """Raise `LensFVError` for the first value that its rule does not accept; `name` is the function's, for the message."""
    for parameter, value in values:
        if parameter in rules and (wrong := rules[parameter].wrong(value)):
            raise LensFVError(f"{name}({parameter}={brief(value)}): {wrong}")


def _checking(function: Any, name: str) -> Any:
    rules, positions = value_rules(function), tuple(inspect.signature(function).parameters)

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        check_values(name, rules, (*zip(positions, args), *options.items()))
        return function(*args, **options)

    return call


class _Range(NamedTuple):
    """A number type and its bounds."""

    kind: type
    bounds: dict[str, float]

    def has(self, value: Any) -> bool:
        number = Integral if self.kind is int else Real
        return isinstance(value, number) and all(_BOUNDS[name][0](value, at) for name, at in self.bounds.items())

    def __str__(self) -> str:
        finite = "finite " * any(map(isinf, self.bounds.values()))
        bounds = [f"{_BOUNDS[name][1]} {bound}" for name, bound in self.bounds.items() if not isinf(bound)]
        return f"a {finite}{'whole ' * (self.kind is int)}number {' and '.join(bounds)}".strip()


class _Rule(NamedTuple):
    """The values a parameter accepts.

    Attributes:
        words: Accepted strings.
        ranges: Accepted ranges of numbers.
        inside: Rule for the elements of a collection or the values of a mapping; None if no such rule applies.
        types: Other accepted types; their content is not checked.
    """

    words: tuple[str, ...] = ()
    ranges: tuple[_Range, ...] = ()
    inside: "_Rule | None" = None
    types: tuple[Any, ...] = ()

    @property
    def limits(self) -> bool:
        """Whether this rule restricts anything."""
        return bool(self.words or self.ranges or (self.inside and self.inside.limits))

    def wrong(self, value: Any) -> str:
        """Describe what is wrong with a value; empty if it is accepted."""
        if isinstance(value, str):
            accepted = value in self.words or str in self.types
        elif isinstance(value, Real):
            accepted = any(interval.has(value) for interval in self.ranges)
        elif isinstance(value, Sequence | Set | Mapping) and self.inside is not None:
            inside = value.values() if isinstance(value, Mapping) else value
            return next(filter(None, map(self.inside.wrong, inside)), "")
        elif value is None:
            accepted = NoneType in self.types
        else:  # an array, for example, is left to the function
            accepted = bool(set(self.types) - {NoneType, str}) or (self.inside is not None and isinstance(value, Iterable))
        return "" if accepted else f"it has to be {self._description()}{nearest(value, self.words)}"

    def _description(self) -> str:
        accepted = [*map(repr, self.words), *map(str, self.ranges)]
        if self.inside is not None and not accepted:
            accepted.append(f"several, each {self.inside._description()}")
        accepted += ["None" if kind is NoneType else getattr(kind, "__name__", str(kind)) for kind in self.types]
        return " or ".join(filter(None, [", ".join(accepted[:-1]), accepted[-1]]))


def _rule(annotation: Any) -> _Rule:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in _UNIONS:
        parts = [_rule(part) for part in inner]
        insides = [part.inside for part in parts if part.inside is not None]
        return _Rule(
            tuple(word for part in parts for word in part.words),
            tuple(interval for part in parts for interval in part.ranges),
            insides[0] if insides else None,
            tuple(kind for part in parts for kind in part.types),
        )
    if origin is Literal:
        return _Rule(words=inner)
    if origin is Annotated and inner[0] in (int, float):
        bounds = {name: bound for part in inner[1:] for name in _BOUNDS if (bound := getattr(part, name, None)) is not None}
        return _Rule(ranges=(_Range(inner[0], bounds),))
    if isinstance(origin, type) and issubclass(origin, Collection) and inner:
        inside = _rule(inner[1] if issubclass(origin, Mapping) else inner[0])
        if inside.limits:
            return _Rule(inside=inside)
    return _Rule(types=(annotation,))


def wrong_value(annotation: Any, value: object) -> str:
    """Describe what is wrong with a value for a parameter with this annotation; empty if it is accepted."""
    rule = _rule(annotation)
    return rule.wrong(value) if rule.limits else ""
