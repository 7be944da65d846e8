"""Times models of several runs in turn, since latencies of different hours are not comparable."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from cprune_tf.config import MeasureConfig
from cprune_tf.devices import Device, ModelFile


@dataclasses.dataclass(frozen=True)
class Timed:
    """One model.

    Attributes:
        latency_ms: The median over all rounds of the medians.
        ratio: The median over all rounds of: latency / that of the first model.
        ratio_range: The smallest and the largest of these ratios.
    """

    latency_ms: float
    ratio: float
    ratio_range: tuple[float, float]


def time_together(
    device: Device,
    files: Sequence[ModelFile],
    measure: MeasureConfig,
    rounds: int,
) -> dict[str, Timed]:
    """Times all models in turn, several times over.

    Args:
        device: The device.
        files: The models, with different names; the first is the reference.
        measure: How they are timed, and on how many threads.
        rounds: How often.

    Returns:
        The measurement of each model by its name.
    """
    runs = [device.time_models(files, measure.num_threads, measure) for _ in range(rounds)]
    timed = {}
    for number, file in enumerate(files):
        ratios = [run[number].median_ms / run[0].median_ms for run in runs]
        timed[file.name] = Timed(
            statistics.median(run[number].median_ms for run in runs),
            statistics.median(ratios),
            (min(ratios), max(ratios)),
        )
    return timed


def run_files(
    root: pathlib.Path, names: Mapping[str, str], runtime: str = "tvm"
) -> list[ModelFile]:
    """Describes files of a finished run to a device.

    Args:
        root: The run directory.
        names: The name that each file gets in the measurement: its path in the run directory.
        runtime: What the files run in: "tvm" or "litert".
    """
    metadata = json.loads((root / "deploy" / "metadata.json").read_text(encoding="utf-8"))
    inputs = tuple((one["dtype"], tuple(one["shape"])) for one in metadata["inputs"])
    return [
        ModelFile(name, runtime, str((root / path).resolve()), inputs)
        for name, path in names.items()
    ]
