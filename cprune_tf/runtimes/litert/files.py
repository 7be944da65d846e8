"""The `.tflite` file of a model at each precision, with the layers of each of its operators."""

from __future__ import annotations

import abc
import bisect
import dataclasses
import functools
import typing
from collections.abc import Callable, Sequence
from typing import Any

from cprune_tf import litert
from cprune_tf.graph.flat import flatten
from cprune_tf.litert.conversion import convertible
from cprune_tf.litert.dividing import divide
from cprune_tf.litert.quantization import CASTS
from cprune_tf.litert.tracing import TracedFile, trace
from cprune_tf.litert.workloads import Workload

if typing.TYPE_CHECKING:
    import keras

    from cprune_tf.runtimes.registry import RuntimeOptions


# A workload with the numbers of its operators in the file.
Part = tuple[Workload, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class DividedFile:
    """A file with the operators that LiteRT runs one after the other.

    Attributes:
        content: The content of the file.
        parts: The operators, each with the names of the Keras layers that it computes.
    """

    content: bytes = dataclasses.field(repr=False)
    parts: tuple[tuple[Workload, tuple[str, ...]], ...]


class FileMaker(abc.ABC):
    """Makes the files of one precision."""

    @abc.abstractmethod
    def divided(self, model: keras.Model) -> DividedFile:
        """Makes a file that takes as long as the one that would be deployed, and divides it.

        Raises:
            ConversionError: The model cannot be converted.
            UnsupportedOperatorError: An operator cannot be measured alone.
        """

    @abc.abstractmethod
    def deployed(self, model: keras.Model, divided: bytes) -> bytes:
        """Makes the file that is deployed.

        Args:
            model: The Keras model.
            divided: The content of the divided file of the same model.
        """


class FloatFiles(FileMaker):
    """Makes files whose weights are stored in float32 or float16.

    Args:
        precision: "float32" or "float16".
    """

    def __init__(self, precision: str) -> None:
        # The second argument computes the model's outputs under names that tell which layer made
        # an operator; see litert.convert.
        self._convert: Callable[[Any, Callable[..., Any]], bytes] = functools.partial(
            litert.convert, precision=precision
        )

    def divided(self, model: keras.Model) -> DividedFile:
        """See FileMaker."""
        file = trace(flatten(convertible(model)[0]), self._convert)
        parts = ((workload, _layers(file, numbers)) for workload, numbers in divide(file.content))
        return DividedFile(file.content, tuple(parts))

    def deployed(self, model: keras.Model, divided: bytes) -> bytes:
        """See FileMaker. It is the divided file."""
        return divided


class Int8Files(FileMaker):
    """Makes files that compute in int8.

    Args:
        options: The runtime's options: what stays float, and what quantises.
    """

    def __init__(self, options: RuntimeOptions) -> None:
        self._settings = options.quantization
        self._quantize = options.quantize

    def divided(self, model: keras.Model) -> DividedFile:
        """See FileMaker. Ranges do not change the latency, so they are made up."""
        graph = flatten(convertible(model)[0])
        file = trace(graph)
        content = litert.quantize_for_timing(
            file.content,
            graph,
            keep_float=self._settings.keep_float,
            inputs=self._settings.inputs,
        )
        parts = divide(content)
        float_number = _float_numbers(parts, file)
        return DividedFile(
            content,
            tuple(
                (workload, _layers(file, [float_number[number] for number in numbers]))
                for workload, numbers in parts
            ),
        )

    def deployed(self, model: keras.Model, divided: bytes) -> bytes:
        """See FileMaker. Ranges come from images."""
        return divided if self._quantize is None else self._quantize(model)


def file_maker(options: RuntimeOptions) -> FileMaker:
    """Returns what makes the files of a runtime with these options."""
    return Int8Files(options) if options.precision == "int8" else FloatFiles(options.precision)


def _layers(file: TracedFile, numbers: Sequence[int]) -> tuple[str, ...]:
    """Returns the layers that some operators of a float file compute, each once."""
    return tuple(dict.fromkeys(call.name for number in numbers for call in file.calls[number]))


def _float_numbers(parts: Sequence[Part], file: TracedFile) -> dict[int, int]:
    """Ties the operators of a quantised file to those of the float file, by their numbers.

    A conversion between number types is tied to what the operator that follows it is tied to; the
    last one, to the operator before it.

    Args:
        parts: The quantised file's workloads, with the numbers of their operators.
        file: The float file, whose operators are in the same order.

    Returns:
        Number in the quantised file -> number in the float file.

    Raises:
        ValueError: If the quantised file has other operators.
    """
    codes = {
        number: operator.code
        for workload, numbers in parts
        for number, operator in zip(numbers, workload.operators, strict=True)
    }
    computing = [number for number in sorted(codes) if codes[number] not in CASTS]
    found, expected = [codes[n] for n in computing], [one.code for one in file.operators]
    if found != expected:
        raise ValueError(
            f"The int8 file has the operators {', '.join(found)}; expected those of the float32 "
            f"file in the same order: {', '.join(expected)}."
        )
    float_numbers = {}
    for number in codes:
        following = bisect.bisect_left(computing, number)
        float_numbers[number] = min(following, len(computing) - 1)
    return float_numbers
