"""Options of a function as one dataclass: names, types, defaults and help are stated once, and callers write keywords."""

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from reprlib import repr as brief
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload, runtime_checkable

from lens_fv.core.choices import check_names, check_values, value_rules, wrong_value
from lens_fv.errors import LensFVError

P = ParamSpec("P")
Model = TypeVar("Model")
Data = TypeVar("Data")
Config = TypeVar("Config")
Result = TypeVar("Result")
ModelType = TypeVar("ModelType", contravariant=True)
DataType = TypeVar("DataType", contravariant=True)
ConfigType = TypeVar("ConfigType", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


@runtime_checkable
class TakesOptions(Protocol[ModelType, DataType, ConfigType, P, ResultOut]):  # pyright: ignore[reportInvalidTypeVarUse]
    """A function `(model, data, **options)`, or `(model, data, config, **options)`, where keywords override the config."""

    @overload
    def __call__(self, model: ModelType, data: DataType, /, *args: P.args, **options: P.kwargs) -> ResultOut: ...
    @overload
    def __call__(
        self, model: ModelType, data: DataType, config: ConfigType, /, *args: P.args, **options: P.kwargs
    ) -> ResultOut: ...


def takes_options(
    config: Callable[P, Config],
) -> Callable[[Callable[[Model, Data, Config], Result]], TakesOptions[Model, Data, Config, P, Result]]:
    """Let a function `(model, data, options)` take its options as keywords.

    Type checkers see every keyword with its type and default; `help` also shows the help texts, which are read from the
    `Attributes:` sections of the dataclass and its bases, in place of the entry `options:` below `Args:`.

    Args:
        config: Frozen dataclass of keyword-only fields with defaults, decorated with `checked`. An instance may be passed as
            third argument.

    Raises:
        LensFVError: on a call, if a keyword is no option (the message names the nearest), a value is not accepted, or the
            third argument is no `config`.

    Example:
        >>> ranking = lens_fv.rank_heads(model, task, lens_fv.heads.RankingConfig(n_shots=2, n_clean=4), n_trials=3)
    """
    kind = cast("type[Any]", config)
    names, rules = [field.name for field in fields(kind)], value_rules(kind)

    def decorate(function: Callable[..., Result]) -> TakesOptions[Model, Data, Config, P, Result]:
        name, own_rules = function.__name__, value_rules(function)
        *own, options = inspect.signature(function).parameters

        @wraps(function)
        def call(*args: Any, **keywords: Any) -> Any:
            if len(args) > len(own) + 1:
                return function(*args)  # which Python refuses
            positional = dict(zip((*own, "config"), args))
            if twice := positional.keys() & keywords.keys():
                raise TypeError(f"{name}() got multiple values for argument {min(twice)!r}")
            positional |= {parameter: keywords.pop(parameter) for parameter in (*own, "config") if parameter in keywords}
            check_names(name, keywords, names)
            check_values(name, rules, keywords.items())
            if (base := positional.pop("config", None)) is not None:
                if wrong := wrong_value(kind, base):
                    raise LensFVError(f"{name}(config={' '.join(brief(base).split())}): {wrong}")
                keywords = {option: getattr(base, option) for option in names} | keywords
            check_values(name, own_rules, positional.items())
            return function(**positional, **{options: kind(**keywords)})

        vars(call)["__signature__"] = _signature(function, kind)
        third = {"config": f"`{kind.__name__}` whose fields the keywords override."}
        call.__doc__ = _with_help(inspect.getdoc(function) or "", third | option_help(kind))
        return call

    return decorate


def option_help(config: type[Any]) -> dict[str, str]:
    """The help text of each field, from the `Attributes:` sections of a dataclass and its bases."""
    texts: dict[str, str] = {}
    for base in config.__mro__:
        section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2].split("\n\n")[0]
        for entry in re.finditer(r"^    (\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE):
            texts.setdefault(entry[1], entry[2])
    return {field.name: texts[field.name] for field in fields(config) if field.name in texts}


def _signature(function: Callable[..., Any], config: type[Any]) -> inspect.Signature:
    """The function's own parameters, the optional config, and every option."""
    signature, choices = inspect.signature(function), inspect.signature(config).parameters.values()
    own = [parameter.replace(kind=parameter.POSITIONAL_ONLY) for parameter in signature.parameters.values()]
    third = own.pop().replace(name="config", default=None, annotation=config | None)
    return inspect.Signature([*own, third, *choices], return_annotation=signature.return_annotation)


def _with_help(text: str, helps: dict[str, str]) -> str:
    entries = "\n".join(f"    {name}: {help_text}" for name, help_text in helps.items())
    return re.sub(r"^    options: .+(?:\n {8}.+)*", lambda _: entries, text, count=1, flags=re.MULTILINE)
