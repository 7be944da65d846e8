"""Single operators of a `.tflite` file, as workloads that can be compared and resized.

A workload is one operator with the shapes, types and options that it has in a model. `dividing`
reads workloads from a file, `writing` makes a file of one.

A padding that only a convolution reads is part of the convolution's workload, because XNNPACK
computes both together.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

ABSENT = -1
"""The index of an optional input that is absent."""


def names_of(enumeration: Any) -> dict[int, str]:
    """Returns the names of an enumeration of the file format, by code."""
    return {code: name for name, code in vars(enumeration).items() if not name.startswith("_")}


_ACTIVATIONS = names_of(schema.ActivationFunctionType)


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How the integers of a tensor stand for numbers.

    Two tensors with other scales are equal: scales do not change the latency.

    Attributes:
        axis: The axis that the scales belong to.
        per_channel: Whether there is a scale for every index of the axis, not only one.
        scales: The scales.
        zero_points: The integers that stand for 0.
    """

    axis: int
    per_channel: bool
    scales: tuple[float, ...] = dataclasses.field(compare=False, repr=False)
    zero_points: tuple[int, ...] = dataclasses.field(compare=False, repr=False)

    def resized(self, shape: Sequence[int]) -> Quantization:
        """Returns as many scales as a tensor of this shape needs."""
        if not self.per_channel:
            return self
        size = shape[self.axis]
        return dataclasses.replace(
            self,
            scales=tuple(np.resize(self.scales, size).tolist()),
            zero_points=tuple(np.resize(self.zero_points, size).tolist()),
        )


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that an operator reads or writes.

    Attributes:
        dtype: The type's name, e.g. "float32".
        shape: Its sizes.
        is_constant: Whether the file holds the tensor's values.
        values: The values of a constant that decides what is computed; empty for weights.
        quantization: The quantization of an integer tensor; None if it is not quantized.
    """

    dtype: str
    shape: tuple[int, ...]
    is_constant: bool = False
    values: tuple[int, ...] = ()
    quantization: Quantization | None = None

    def with_shape(self, shape: tuple[int, ...]) -> Tensor:
        """Returns the tensor with another shape."""
        quantization = self.quantization and self.quantization.resized(shape)
        return dataclasses.replace(self, shape=shape, quantization=quantization)


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of a workload.

    Attributes:
        code: The name of its operator code, e.g. "CONV_2D".
        version: The version of the operator.
        options_kind: The name of the table of its options, e.g. "Conv2DOptions"; "NONE" without.
        options: The options by name, sorted.
        inputs: Positions of the tensors that it reads; -1 for an optional one that is absent.
        outputs: Positions of the tensors that it writes.
    """

    code: str
    version: int
    options_kind: str
    options: tuple[tuple[str, Any], ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def kind(self) -> str:
        """The code with those options that are not the defaults, e.g. "conv_2d(relu, stride 2)"."""
        words = list(_words(self.options_kind, dict(self.options)))
        return self.code.lower() + (f"({', '.join(words)})" if words else "")


@dataclasses.dataclass(frozen=True)
class Workload:
    """Operators that LiteRT runs as one, with the tensors that they read and write.

    Attributes:
        operators: The operators, in the order in which they run; usually one.
        tensors: Their tensors; the last one is the result.
    """

    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]

    @functools.cached_property
    def digest(self) -> str:
        """A text that is equal for equal workloads, in every process."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    @property
    def kind(self) -> str:
        """The operators without their shapes."""
        return " + ".join(operator.kind for operator in self.operators)

    @property
    def label(self) -> str:
        """The operators in short, e.g. "pad+conv_2d"."""
        return "+".join(operator.code.lower() for operator in self.operators)

    @property
    def result(self) -> Tensor:
        """The tensor that the workload computes."""
        return self.tensors[-1]

    @property
    def flops(self) -> float:
        """Floating-point operations of one run; a multiply-add counts as two."""
        return sum(self._flops(operator) for operator in self.operators)

    def _flops(self, operator: Operator) -> float:
        read = [self.tensors[index] for index in operator.inputs if index != ABSENT]
        written = math.prod(self.tensors[operator.outputs[0]].shape)
        options = dict(operator.options)
        match operator.code:
            case "CONV_2D":
                return 2.0 * math.prod(read[1].shape[1:]) * written
            case "DEPTHWISE_CONV_2D":
                return 2.0 * math.prod(read[1].shape[:-1]) * written
            case "FULLY_CONNECTED" | "BATCH_MATMUL":
                return 2.0 * read[0].shape[-1] * written
            case "TRANSPOSE_CONV":
                return 2.0 * math.prod(read[1].shape[:-1]) * math.prod(read[2].shape)
            case "AVERAGE_POOL_2D" | "MAX_POOL_2D":
                return float(options["filterWidth"] * options["filterHeight"] * written)
        return float(max(written, *(math.prod(tensor.shape) for tensor in read), 0))


def _words(kind: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Yields an operator's options in words, without those that have their default values."""
    if kind == "NONE":
        return
    options = dict(options)
    activation = options.pop("fusedActivationFunction", 0)
    if activation:
        yield _ACTIVATIONS[activation].lower()
    for word, high, wide in (
        ("stride", "strideH", "strideW"),
        ("dilation", "dilationHFactor", "dilationWFactor"),
        ("window", "filterHeight", "filterWidth"),
    ):
        sizes = options.pop(high, 1), options.pop(wide, 1)
        if sizes != (1, 1):
            yield f"{word} {sizes[0]}x{sizes[1]}"
    if options.pop("padding", schema.Padding.SAME) == schema.Padding.VALID:
        yield "valid"
    # What follows from a tensor's shape differs between sizes of one kind.
    options.pop("newShape", None)
    defaults = vars(options_class(kind)())
    yield from (f"{name} {value}" for name, value in options.items() if value != defaults[name])


def options_class(kind: str) -> Any:
    """Returns the class of an operator's options, e.g. of "Conv2DOptions"."""
    return getattr(schema, f"{kind}T")
