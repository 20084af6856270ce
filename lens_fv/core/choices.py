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
    annotated-types), classes, and unions, collections and mappings of them; everything else is left to the function. A class
    may name in `_MADE_BY` the function that makes it, for the message. Place the decorator above all others except
    `classmethod` and the like, so that the message is the same with and without a type checker.

    Raises:
        LensFVError: on a call, if a keyword is no parameter, or a value is not among the choices (the message names the
            nearest), out of range, or of another class.

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
            raise LensFVError(f"{name}({parameter}={' '.join(brief(value).split())}): {wrong}")


def check_names(name: str, keywords: Iterable[str], known: Collection[str]) -> None:
    """Raise `LensFVError` for the first keyword that is unknown; the message names the nearest known one."""
    for keyword in keywords:
        if keyword not in known:
            raise LensFVError(f"{name}({keyword}=...): it has no such option{nearest(keyword, known)}")


def _checking(function: Any, name: str) -> Any:
    parameters = inspect.signature(function).parameters
    rules, positions = value_rules(function), tuple(parameters)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if not takes_any:
            check_names(name, options, positions)
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
        classes: Accepted classes.
        inside: Rule for the elements of a collection or the values of a mapping; None if no collection is accepted.
        is_mapping: Whether that collection has to be a mapping.
        is_open: Whether other values are left to the function.
    """

    words: tuple[str, ...] = ()
    ranges: tuple[_Range, ...] = ()
    classes: tuple[type, ...] = ()
    inside: "_Rule | None" = None
    is_mapping: bool = False
    is_open: bool = False

    @property
    def limits(self) -> bool:
        """Whether this rule restricts anything."""
        return not self.is_open or bool(self.words or self.ranges)

    def wrong(self, value: Any) -> str:
        """Describe what is wrong with a value; empty if it is accepted."""
        if isinstance(value, self.classes):
            return ""
        if isinstance(value, str):
            accepted = value in self.words or (self.is_open and not self.words)
        elif isinstance(value, Real):
            accepted = any(interval.has(value) for interval in self.ranges) or (self.is_open and not self.ranges)
        elif value is None:
            accepted = self.is_open and not (self.words or self.ranges)
        elif self.inside is not None and isinstance(value, Mapping if self.is_mapping else Sequence | Set | Mapping):
            inside = value.values() if isinstance(value, Mapping) else value
            checked_items = inside if self.inside.limits else ()  # token ids are many
            return next(filter(None, map(self.inside.wrong, checked_items)), "")
        else:  # an array, for example, is left to the function
            accepted = self.is_open or (self.inside is not None and not self.is_mapping and isinstance(value, Iterable))
        return "" if accepted else f"it has to be {self._description()}{nearest(value, self.words)}"

    def _description(self) -> str:
        classes = [kind for kind in self.classes if kind is not NoneType]
        accepted = [*map(repr, self.words), *map(str, self.ranges), *map(_class_name, classes)]
        if self.inside is not None:
            items = self.inside._description() if self.inside.limits else "values"
            accepted.append(f"a mapping to {items}" if self.is_mapping else f"several, each {items}")
        accepted += ["None"] * (NoneType in self.classes)
        return " or ".join(filter(None, [", ".join(accepted[:-1]), accepted[-1]]))


def _class_name(kind: type) -> str:
    article = "an" if kind.__name__[0] in "AEIO" else "a"
    made_by: str = getattr(kind, "_MADE_BY", "")
    return f"{article} {kind.__name__}" + f", made by {made_by}" * bool(made_by)


def _rule(annotation: Any) -> _Rule:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in _UNIONS:
        parts = [_rule(part) for part in inner]
        collections = [part for part in parts if part.inside is not None]
        return _Rule(
            tuple(word for part in parts for word in part.words),
            tuple(interval for part in parts for interval in part.ranges),
            tuple(kind for part in parts for kind in part.classes),
            collections[0].inside if len(collections) == 1 else None,
            len(collections) == 1 and collections[0].is_mapping,
            len(collections) > 1 or any(part.is_open for part in parts),
        )
    if origin is Literal:
        return _Rule(words=inner)
    if origin is Annotated:
        if inner[0] not in (int, float):
            return _rule(inner[0])
        bounds = {name: bound for part in inner[1:] for name in _BOUNDS if (bound := getattr(part, name, None)) is not None}
        return _Rule(ranges=(_Range(inner[0], bounds),))
    if isinstance(origin, type) and issubclass(origin, Collection) and inner and origin is not tuple:
        return _Rule(inside=_rule(inner[-1]), is_mapping=issubclass(origin, Mapping))
    if origin is tuple and inner[1:] == (...,):
        return _Rule(inside=_rule(inner[0]))
    if _is_class(annotation):
        return _Rule(classes=(annotation,))
    return _Rule(is_open=True)


def _is_class(annotation: Any) -> bool:
    """Whether instances can be told from others at once; arrays' shapes and numbers without a range are not checked here."""
    if not isinstance(annotation, type) or annotation in (Any, int, float, object, inspect.Parameter.empty):
        return False
    return not getattr(annotation, "_is_protocol", False) and not hasattr(annotation, "array_type")


def wrong_value(annotation: Any, value: object) -> str:
    """Describe what is wrong with a value for a parameter with this annotation; empty if it is accepted."""
    rule = _rule(annotation)
    return rule.wrong(value) if rule.limits else ""
