"""The registry of converters, and the error about operations that have none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from cprune_tf.errors import UserError
from cprune_tf.graph import unfolding

Converter = Callable[..., Any]
_C = TypeVar("_C", bound=Converter)

_CONVERTERS: dict[type | str, Converter] = {}

HOW_TO_REGISTER = (
    "Register a converter for each of them before importing:\n"
    "    from cprune_tf.compiler.importer import register_converter\n"
    "    @register_converter(TheLayerClass)\n"
    "    def convert(emitter, layer, x):\n"
    "        return emitter.emit(relax.op....(x))\n"
    "(help(cprune_tf.compiler.importer) has a complete example), or rebuild the model without them."
)


@dataclasses.dataclass(frozen=True)
class UnsupportedOperation:
    """One call that cannot be converted.

    Attributes:
        name: The name of the Keras layer or operation in the model.
        kind: The qualified name of its class, "module.QualifiedName".
        reason: Why it cannot be converted.
    """

    name: str
    kind: str
    reason: str


class UnsupportedOperationError(UserError, ValueError):
    """A model has operations without a converter, or with settings that no converter supports.

    A converter raises this error with only a reason. `import_model` collects these errors and
    raises one error for all of them.

    Attributes:
        operations: All unsupported calls, in the order of the model's graph; empty in an error that
            a converter raised.
    """

    def __init__(self, reason: str, operations: Iterable[UnsupportedOperation] = ()):
        super().__init__(reason)
        self.operations = tuple(operations)

    @classmethod
    def for_model(
        cls, model_name: str, operations: Iterable[UnsupportedOperation]
    ) -> UnsupportedOperationError:
        """Creates the one error that names every unsupported call of a model and what to do."""
        operations = tuple(operations)
        names_by_problem: dict[tuple[str, str], list[str]] = {}
        for operation in operations:
            problem = (operation.kind, operation.reason)
            names_by_problem.setdefault(problem, []).append(operation.name)
        lines = "\n".join(
            f"  - {kind}: {reason}: {', '.join(names)}"
            for (kind, reason), names in names_by_problem.items()
        )
        return cls(
            f"Model {model_name!r} has {len(operations)} operation(s) that cannot be imported:\n"
            f"{lines}\n{HOW_TO_REGISTER}",
            operations,
        )


def register_converter(*keys: type | str) -> Callable[[_C], _C]:
    """Registers a function as the converter of one or more Keras operations.

    Args:
        *keys: Layer or Operation classes, which are matched exactly because a subclass may compute
            something else; "ops.Add" for the operation class `Add` behind `keras.ops`; or
            "module.QualifiedName" for a class without a public name.

    Returns:
        A decorator. The decorated function is called as `converter(emitter, operation, *args,
        **kwargs)` with the arguments of the recorded Keras call, in which Relax variables replace
        the Keras tensors. It returns Relax variables in the structure of the call's outputs.
    """

    def decorate(converter: _C) -> _C:
        for key in keys:
            _CONVERTERS[key] = converter
            unfolding.keep_whole(key)
        return converter

    return decorate


def qualified_name(operation: object) -> str:
    """Returns the name of the operation's class as "module.QualifiedName"."""
    kind = type(operation)
    return f"{kind.__module__}.{kind.__qualname__}"


def has_converter(key: type | str) -> bool:
    """Whether a converter is registered for a class, or for a key such as "ops.Add"."""
    name = key if isinstance(key, str) else f"{key.__module__}.{key.__qualname__}"
    return key in _CONVERTERS or name in _CONVERTERS


def find_converter(operation: object) -> Converter | None:
    """Returns the converter registered for the operation's class, or None if there is none."""
    kind = type(operation)
    name = qualified_name(operation)
    keys: list[type | str] = [kind, name]
    if name.startswith("keras.src.ops."):
        keys.append(f"ops.{kind.__qualname__}")
    return next((_CONVERTERS[key] for key in keys if key in _CONVERTERS), None)
