"""Reads from an int8 file where it rounds, so that a training can round in the same places.

The file itself tells which layers are fused, which tensors share a range and what stays float32.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from cprune_tf.graph.flat import FlatGraph
from cprune_tf.litert import tflite_graph
from cprune_tf.litert.bias_correction import CHANNEL_AXES
from cprune_tf.litert.errors import ConversionError
from cprune_tf.litert.quantization import CASTS, Quantized
from cprune_tf.litert.tflite_graph import FileOperator, FileTensor

_INPUT = re.compile(r"input_(\d+)")
_LEAST, _GREATEST = -128, 127
_PROBABILITIES = ("SOFTMAX", "LOGISTIC")


@dataclasses.dataclass(frozen=True)
class Rounding:
    """Where an int8 file rounds, in terms of the flat graph that it was converted from.

    Attributes:
        calls: The names of all calls of the graph, in order.
        ranges: The least and the greatest number that each range of the file stands for.
        inputs: Position of a model input -> the range that it is rounded to.
        outputs: Position of a call -> the range that its first output is rounded to.
        weights: Positions of the calls whose kernel is rounded, with one scale for each output
            channel.
        left_out: Layers whose weights the file rounds, but of a kind that is not imitated.
    """

    calls: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]
    inputs: Mapping[int, int]
    outputs: Mapping[int, int]
    weights: tuple[int, ...]
    left_out: tuple[str, ...]


def read_rounding(quantized: Quantized) -> Rounding:
    """Finds out where an int8 file rounds.

    A softmax or sigmoid that makes an output is left exact: a training needs the logarithms of its
    small values, which the file rounds to 0, and its largest values stay in their order.

    Args:
        quantized: The int8 file.

    Returns:
        The places, with the file's ranges.

    Raises:
        ConversionError: No operator of the file is known to compute a layer in int8.
    """
    graph = quantized.graph
    operators = tflite_graph.read_operators(quantized.content, graph)
    ranges = _Ranges(operators)
    inputs: dict[int, int] = {}
    outputs: dict[int, int] = {}
    producer = {tensor.name: op for op in operators for tensor in op.outputs}
    for operator in operators:
        for tensor in operator.inputs:
            # What becomes int8 only for its reader: a model input, or the output in float32 of
            # another operator.
            stored = operator.outputs[0] if operator.code == "QUANTIZE" else tensor
            if tensor.data is not None or stored.name not in ranges.numbers:
                continue
            if tensor.name not in producer:
                if match := _INPUT.search(tensor.name):
                    inputs[int(match[1])] = ranges.numbers[stored.name]
            elif tensor.dtype == "float32" and producer[tensor.name].calls:
                outputs[producer[tensor.name].calls[-1]] = ranges.numbers[stored.name]
        name = operator.outputs[0].name
        if operator.calls and operator.code not in CASTS and name in ranges.numbers:
            outputs[operator.calls[-1]] = ranges.numbers[name]
    for position in _final_probabilities(operators):
        outputs.pop(position, None)
    weights, left_out = _rounded_weights(operators, graph)
    if not outputs:
        raise ConversionError(
            f"Nothing in the int8 file of model {graph.model.name!r} is known to compute one of "
            "its layers in int8, so no training can imitate it; set "
            "config.quantization.aware.epochs to 0."
        )
    return Rounding(
        tuple(call.name for call in graph.calls),
        ranges.limits(),
        inputs,
        outputs,
        weights,
        left_out,
    )


class _Ranges:
    """The ranges of a file's int8 tensors; an operator that only moves values has one for all.

    Attributes:
        numbers: Name of a tensor -> the number of its range.
    """

    def __init__(self, operators: Sequence[FileOperator]) -> None:
        self.numbers: dict[str, int] = {}
        self._steps: list[tuple[float, int]] = []
        for operator in operators:
            for tensor in (*operator.inputs, *operator.outputs):
                if tensor.dtype == "int8" and tensor.data is None and len(tensor.scales) == 1:
                    self._add(tensor)
            if operator.product is None:
                self._join(operator)

    def limits(self) -> tuple[tuple[float, float], ...]:
        """Returns what the least and the greatest integer of each range stand for."""
        return tuple(
            ((_LEAST - zero_point) * scale, (_GREATEST - zero_point) * scale)
            for scale, zero_point in self._steps
        )

    def _add(self, tensor: FileTensor) -> None:
        if tensor.name not in self.numbers:
            self.numbers[tensor.name] = len(self._steps)
            self._steps.append((float(tensor.scales[0]), int(tensor.zero_points[0])))

    def _join(self, operator: FileOperator) -> None:
        """Gives the output of an operator the range of all inputs that have the same steps."""
        output = operator.outputs[0].name
        if output not in self.numbers:
            return
        own = self.numbers[output]
        for tensor in operator.inputs:
            other = self.numbers.get(tensor.name, own)
            if other != own and self._steps[other] == self._steps[own]:
                joined = {name: own for name, number in self.numbers.items() if number == other}
                self.numbers.update(joined)


def _final_probabilities(operators: Sequence[FileOperator]) -> list[int]:
    read = {t.name for op in operators if op.code not in CASTS for t in op.inputs}
    return [
        op.calls[-1]
        for op in operators
        if op.code in _PROBABILITIES and op.calls and op.outputs[0].name not in read
    ]


def _rounded_weights(
    operators: Sequence[FileOperator], graph: FlatGraph
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Returns the calls whose weights are int8, and the layers where that is not imitated."""
    found: set[int] = set()
    left_out: list[str] = []
    for operator in operators:
        product = operator.product
        if product is None or product.weight.dtype != "int8":
            continue
        known = {i for i in operator.calls if type(graph.calls[i].operation) in CHANNEL_AXES}
        found |= known
        if not known:
            left_out += tflite_graph.layer_names(operator, graph)
    return tuple(sorted(found)), tuple(dict.fromkeys(left_out))
