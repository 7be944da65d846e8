"""Frozen dataclasses as plain JSON types, and back; what does not fit a field's type is refused."""

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
    """Values that do not fit a dataclass; names each field, with what was expected of it."""


class _MisfitError(ValueError):
    """One value that does not fit, in words."""


def to_fields(value: Any) -> dict[str, Any]:
    """Writes a dataclass as plain JSON types.

    Args:
        value: The dataclass; see `plain.to_plain` for what its fields can hold.

    Returns:
        Field names to plain values. A number that is not finite is None.

    Raises:
        TypeError: For a field that is not data.
    """
    fields = plain.to_plain(value)
    return typing.cast(dict[str, Any], fields)


def from_fields(cls: type[T], fields: Mapping[str, Any], name: str) -> T:
    """Reads a dataclass from plain JSON types: the reverse of `to_fields`.

    Every field has to be there, with a value of its type. None in a field of type float is a number
    that was not finite, and becomes NaN.

    Args:
        cls: The dataclass.
        fields: Field names to plain values.
        name: What to call it in an error.

    Returns:
        The dataclass, with tuples for lists.

    Raises:
        CodecError: For missing or unknown fields and for values of another type.
    """
    try:
        return _CONVERTER.structure(fields, cls)
    except (cattrs.BaseValidationError, _MisfitError) as error:
        problems = cattrs.transform_error(error, name, _in_words)
        raise CodecError("; ".join(map(_place_first, problems))) from error


def _in_words(error: BaseException, _: type | None) -> str:
    return str(error) if isinstance(error, _MisfitError) else f"{type(error).__name__}: {error}"


def _place_first(problem: str) -> str:
    # cattrs writes "what is wrong @ where".
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
        # Defaults are for those who write: whoever reads must not take them for what was measured.
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
