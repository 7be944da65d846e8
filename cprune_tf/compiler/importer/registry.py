"""Which function turns which Keras operation into Relax, and what is said when there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from cprune_tf.errors import UserError

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
        name: The Keras layer's or operation's name in the model.
        kind: The class's qualified name.
        reason: What exactly is missing.
    """

    name: str
    kind: str
    reason: str


class UnsupportedOperationError(UserError, ValueError):
    """Operations of a model that have no converter, or not for the settings they use.

    Converters raise it with a reason alone; `import_model` collects all of them and raises once.

    Attributes:
        operations: All unsupported calls, in the order of the model's graph.
    """

    def __init__(self, reason: str, operations: Iterable[UnsupportedOperation] = ()):
        super().__init__(reason)
        self.operations = tuple(operations)

    @classmethod
    def for_model(
        cls, model_name: str, operations: Iterable[UnsupportedOperation]
    ) -> UnsupportedOperationError:
        """One error naming every unsupported call of a model and the way out."""
        operations = tuple(operations)
        names_of: dict[tuple[str, str], list[str]] = {}
        for operation in operations:
            names_of.setdefault((operation.kind, operation.reason), []).append(operation.name)
        lines = "\n".join(
            f"  - {kind}: {reason}: {', '.join(names)}"
            for (kind, reason), names in names_of.items()
        )
        return cls(
            f"Model {model_name!r} has {len(operations)} operation(s) that cannot be imported:\n"
            f"{lines}\n{HOW_TO_REGISTER}",
            operations,
        )


def register_converter(*keys: type | str) -> Callable[[_C], _C]:
    """Registers a function as the converter of one or more Keras operations.

    Args:
        *keys: Layer or Operation classes (matched exactly: a subclass may compute something else),
            "ops.Add" for the operation class `Add` behind `keras.ops`, or "module.QualifiedName"
            for a class that has no public name.

    Returns:
        A decorator. The decorated function is called as `converter(emitter, operation, *args,
        **kwargs)` with the arguments of the recorded Keras call, Keras tensors replaced by Relax
        variables, and returns Relax variables in the structure of the call's outputs.
    """

    def decorate(converter: _C) -> _C:
        for key in keys:
            _CONVERTERS[key] = converter
        return converter

    return decorate


def qualified_name(operation: object) -> str:
    """The operation's class as "module.QualifiedName"."""
    kind = type(operation)
    return f"{kind.__module__}.{kind.__qualname__}"


def find_converter(operation: object) -> Converter | None:
    """The converter registered for the operation's class, or None."""
    kind = type(operation)
    name = qualified_name(operation)
    keys: list[type | str] = [kind, name]
    if name.startswith("keras.src.ops."):
        keys.append(f"ops.{kind.__qualname__}")
    return next((_CONVERTERS[key] for key in keys if key in _CONVERTERS), None)
