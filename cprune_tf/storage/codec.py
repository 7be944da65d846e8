"""Converts frozen dataclasses to plain JSON types and back; refuses values of the wrong type."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import cattrs
import cattrs.cols
import cattrs.gen

from cprune_tf.storage import plain

T = TypeVar("T")
_Hook = Callable[[Any, Any], Any]
_MAX_SHOWN = 60


class CodecError(ValueError):
    """Raised if values do not fit a dataclass; names each field and what it expects."""


class _MisfitError(ValueError):
    """Raised if one value does not fit; says what was expected and received."""


def to_fields(value: Any) -> dict[str, Any]:
    """Converts a dataclass to plain JSON types.

    Args:
        value: The dataclass; see `plain.to_plain` for what its fields can hold.

    Returns:
        Field names to plain values. A number that is not finite becomes None.

    Raises:
        TypeError: If a field holds a type that cannot be converted.
    """
    fields = plain.to_plain(value)
    return typing.cast(dict[str, Any], fields)


def from_fields(cls: type[T], fields: Mapping[str, Any], name: str) -> T:
    """Makes a dataclass of plain JSON types: the reverse of `to_fields`.

    Every field must be present, with a value of its type. None in a field of type float stands for
    a number that was not finite, and becomes NaN.

    Args:
        cls: The class of the dataclass.
        fields: Field names to plain values.
        name: The name of the dataclass in an error text.

    Returns:
        The dataclass; lists become tuples.

    Raises:
        CodecError: If a field is missing or unknown, or a value has the wrong type.
    """
    try:
        return _CONVERTER.structure(fields, cls)
    except (cattrs.BaseValidationError, _MisfitError) as error:
        problems = cattrs.transform_error(error, name, _in_words)
        raise CodecError("; ".join(map(_place_first, problems))) from error


def _in_words(error: BaseException, _: type | None) -> str:
    return str(error) if isinstance(error, _MisfitError) else f"{type(error).__name__}: {error}"


def _place_first(problem: str) -> str:
    # cattrs writes "description @ place".
    description, _, place = problem.rpartition(" @ ")
    return f"{place}: {description}"


def _refuse(expected: str, value: Any) -> typing.NoReturn:
    shown = repr(value)
    if len(shown) > _MAX_SHOWN:
        shown = f"{shown[:_MAX_SHOWN]}..."
    raise _MisfitError(f"expected {expected}, received {shown}")


def _boolean(value: Any, _: Any) -> bool:
    return value if isinstance(value, bool) else _refuse("true or false", value)


def _text(value: Any, _: Any) -> str:
    return value if isinstance(value, str) else _refuse("a string", value)


def _integer(value: Any, _: Any) -> int:
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole:
        _refuse("a whole number", value)
    return int(value)


def _number(value: Any, _: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse("a number", value)
    return float(value)


def _tuple_hook(cls: Any, converter: cattrs.Converter) -> _Hook:
    structure = cattrs.cols.homogenous_tuple_structure_factory(cls, converter)

    def hook(value: Any, cls: Any) -> Any:
        return structure(value, cls) if isinstance(value, list) else _refuse("a list", value)

    return hook


def _mapping_hook(cls: Any, converter: cattrs.Converter) -> _Hook:
    structure = cattrs.cols.mapping_structure_factory(cls, converter)

    def hook(value: Any, cls: Any) -> Any:
        return structure(value, cls) if isinstance(value, dict) else _refuse("an object", value)

    return hook


def _dataclass_hook(cls: Any, converter: cattrs.Converter) -> _Hook:
    structure = cattrs.gen.make_dict_structure_fn(cls, converter)
    names = [field.name for field in dataclasses.fields(cls)]

    def hook(value: Any, cls: Any) -> Any:
        if not isinstance(value, dict):
            _refuse("an object", value)
        # Defaults help code that writes a dataclass. When reading, a default could be mistaken for
        # a recorded value, so every field must be present.
        missing = [name for name in names if name not in value]
        unknown = [name for name in value if name not in names]
        problems = [f"the field {name!r} is missing" for name in missing]
        problems += [f"the field {name!r} is not known" for name in unknown]
        if problems:
            raise _MisfitError(", ".join(problems))
        return structure(value, cls)

    return hook


def _is_tuple(cls: Any) -> bool:
    arguments = typing.get_args(cls)
    return typing.get_origin(cls) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis


def _is_dataclass(cls: Any) -> bool:
    return isinstance(cls, type) and dataclasses.is_dataclass(cls)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    for cls, hook in ((bool, _boolean), (str, _text), (int, _integer), (float, _number)):
        converter.register_structure_hook(cls, hook)
    converter.register_structure_hook_factory(_is_tuple, _tuple_hook)
    converter.register_structure_hook_factory(cattrs.cols.is_mapping, _mapping_hook)
    converter.register_structure_hook_factory(_is_dataclass, _dataclass_hook)
    return converter


_CONVERTER = _make_converter()
