"""Both runtimes' times layer by layer: TVM's subgraphs beside LiteRT's operators.

The two fuse differently: what is compared is the smallest set of layers that both compute apart
from all others. TVM's subgraphs are timed alone, one after the other with warm caches; LiteRT's
operators are timed by its profiler inside the running model. So both sums are held against their
whole models as well.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cprune_tf.compiler.importer.tflite_file import TracedFile, trace
from cprune_tf.config import MeasureConfig
from cprune_tf.devices import ModelFile
from cprune_tf.graph.flat import flatten
from cprune_tf.latency.operator_ties import tie_operators
from cprune_tf.latency.workspace import OpenedModel

_ROUNDS = 3

Timed = tuple[tuple[str, ...], str, float]


@dataclasses.dataclass(frozen=True)
class LayerTimes:
    """Layers that both runtimes compute apart from all others.

    Attributes:
        layers: In the model's order; none: no layer is known to be behind it.
        tvm: TVM's tasks, once for each subgraph.
        litert: LiteRT's operators.
        tvm_ms: Of all these subgraphs; None where TVM computes nothing for the layers.
        litert_ms: Of all these operators; None where LiteRT is not known to compute anything.
    """

    layers: tuple[str, ...]
    tvm: tuple[str, ...]
    litert: tuple[str, ...]
    tvm_ms: float | None
    litert_ms: float | None

    @property
    def ratio(self) -> float | None:
        """TVM's time / LiteRT's; None where one is missing or LiteRT's is below its resolution."""
        if self.tvm_ms is None or not self.litert_ms:
            return None
        return self.tvm_ms / self.litert_ms


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """A model on both runtimes.

    Attributes:
        rows: In the model's order; last what has no layers.
        tvm_whole_ms: Median latency of TVM's library.
        litert_whole_ms: Median latency of LiteRT without its profiler.
        num_threads: Threads of both.
    """

    rows: tuple[LayerTimes, ...]
    tvm_whole_ms: float
    litert_whole_ms: float
    num_threads: int

    @property
    def tvm_sum_ms(self) -> float:
        """Of all subgraphs."""
        return sum(row.tvm_ms or 0.0 for row in self.rows)

    @property
    def litert_sum_ms(self) -> float:
        """Of all operators."""
        return sum(row.litert_ms or 0.0 for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {
            **dataclasses.asdict(self),
            "tvm_sum_ms": self.tvm_sum_ms,
            "litert_sum_ms": self.litert_sum_ms,
        }


def compare_layers(
    opened: OpenedModel,
    measure: MeasureConfig,
    *,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> SideBySide:
    """Times a tuned model's subgraphs in TVM and its operators in LiteRT, in turns.

    Args:
        opened: The model, tuned.
        measure: Warm-up and time of each; its num_threads must be those it was opened with.
        on_round: Called with (rounds done, rounds in all).

    Returns:
        Both runtimes' times by layer: medians over the rounds.

    Raises:
        MissingTfliteError: The `tflite` package is not installed.
        ConversionError: TensorFlow cannot convert the model.
        UntiedOperatorsError: What LiteRT ran cannot be tied to the file.
        DeviceError: If the device fails, or has no LiteRT with a profiler.
    """
    file = trace(flatten(opened.model))
    rows = opened.session.task_table(opened.lowered)
    wholes: list[tuple[float, float]] = []
    kernels: dict[int, list[float]] = {row.task.key: [] for row in rows}
    operators: list[list[Timed]] = []
    with tempfile.TemporaryDirectory(prefix="cprune_layers_") as folder:
        models = _files(opened, file, pathlib.Path(folder))
        for number in range(_ROUNDS):
            on_round(number, _ROUNDS)
            latencies = opened.device.time_models(models, opened.num_threads, measure)
            wholes.append((latencies[0].median_ms, latencies[1].median_ms))
            times = opened.device.profile_litert(models[1].path, opened.num_threads, measure)
            tied = tie_operators(times, file)
            operators.append([(layers, time.name, time.ms) for time, layers in tied])
            for row in rows:
                kernels[row.task.key] += opened.timer.samples_ms(row.task)
    tvm = [
        (part.layers, row.task.name, statistics.median(kernels[row.task.key]))
        for row in rows
        for part in row.task.subgraphs
    ]
    litert = [
        (layers, name, statistics.median(one[2] for one in column))
        for column in zip(*operators, strict=True)
        for layers, name, _ in column[:1]
    ]
    tvm_whole, litert_whole = (statistics.median(column) for column in zip(*wholes, strict=True))
    order = list(flatten(opened.model).layers())
    return SideBySide(
        merge_by_layers(tvm, litert, order), tvm_whole, litert_whole, opened.num_threads
    )


def merge_by_layers(
    tvm: Iterable[Timed], litert: Iterable[Timed], order: Sequence[str]
) -> tuple[LayerTimes, ...]:
    """Puts together what two runtimes need for the same layers.

    Args:
        tvm: Layers, task and ms of each of TVM's subgraphs.
        litert: Layers, name and ms of each of LiteRT's operators.
        order: All layers in the model's order.

    Returns:
        One row for each set of layers that neither runtime mixes with others; last one row each for
        subgraphs and operators without layers, if there are any.
    """
    parts = [*((0, one) for one in tvm), *((1, one) for one in litert)]
    sets = _joined(layers for _, (layers, _, _) in parts)
    position = {layer: number for number, layer in enumerate(order)}
    grouped: dict[Any, tuple[list[Timed], list[Timed]]] = {}
    for runtime, one in parts:
        # What has no layers has none in common with the other runtime either.
        key = sets[one[0][0]] if one[0] else runtime
        grouped.setdefault(key, ([], []))[runtime].append(one)
    rows = []
    for ours, theirs in grouped.values():
        layers = {layer for one in (*ours, *theirs) for layer in one[0]}
        rows.append(
            LayerTimes(
                tuple(sorted(layers, key=lambda layer: position.get(layer, len(position)))),
                tuple(one[1] for one in ours),
                tuple(one[1] for one in theirs),
                sum(one[2] for one in ours) if ours else None,
                sum(one[2] for one in theirs) if theirs else None,
            )
        )
    last = len(position)
    return tuple(
        sorted(rows, key=lambda row: position.get(row.layers[0], last) if row.layers else last + 1)
    )


def _joined(sets: Iterable[Sequence[str]]) -> Mapping[str, str]:
    """A representative for each name; names that occur in one set have the same."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            name = parent[name]
        return name

    for names in sets:
        for name in names:
            parent[find(name)] = find(names[0])
    return {name: find(name) for name in parent}


def _files(
    opened: OpenedModel, file: TracedFile, folder: pathlib.Path
) -> tuple[ModelFile, ModelFile]:
    library, tflite = folder / "whole.so", folder / "whole.tflite"
    opened.session.build(opened.lowered, library)
    tflite.write_bytes(file.content)
    inputs = tuple(
        (str(tensor.dtype), (1, *(int(size) for size in tensor.shape[1:])))
        for tensor in opened.model.inputs
    )
    return (
        ModelFile("whole.so", "tvm", str(library), inputs),
        ModelFile("whole.tflite", "litert", str(tflite), inputs),
    )
