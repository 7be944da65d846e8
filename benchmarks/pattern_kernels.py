r"""Times pattern-sparse convolutions against dense ones, layer by layer.

    python benchmarks/pattern_kernels.py --workdir=FOLDER

The weights are random. Every 3.6th kernel of a layer stays, with 4 of its 9 entries, in blocks of
1, 2, 4 or 8 filters. The dense layer is tuned directly and, where it applies, with Winograd's
algorithm; all get equally many trials. Then the fastest program of each is timed in turn with the
others, and with LiteRT, in several rounds on one thread. All times of pattern programs contain the
change of layout at both ends.

"untuned" is the median of all programs that were measured for blocks of 4. That no load is shared
(no load redundancy elimination at block level) is the form with blocks of 1.

What was measured stays in FOLDER, so the command can be repeated after a stop. Writes
results/pattern_kernels.json; with --quick, one small layer and few trials, which is no result.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import record
from absl import app, flags

from cprune_tf import litert, sparse
from cprune_tf.compiler.profiling import ProgramTimer
from cprune_tf.compiler.roofline import measure_roofline
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.tasks import Task
from cprune_tf.config import MeasureConfig, TuningConfig
from cprune_tf.devices import Device, ModelFile, open_device

# name: (inputs, filters, height and width, stride)
LAYERS: Mapping[str, tuple[int, int, int, int]] = {
    "64, 56x56": (64, 64, 56, 1),
    "64, 32x32": (64, 64, 32, 1),
    "128, 28x28": (128, 128, 28, 1),
    "256, 14x14": (256, 256, 14, 1),
    "512, 7x7": (512, 512, 7, 1),
    "128 to 256, 28x28 by 2": (128, 256, 28, 2),
}
BLOCKS = (1, 2, 4, 8)
RATE = 3.6
ROUNDS = 5

_WORKDIR = flags.DEFINE_string("workdir", None, "Where measurements stay.", required=True)
_TRIALS = flags.DEFINE_integer("trials", 96, "Trials of each layer.")
_QUICK = flags.DEFINE_bool("quick", False, "Try the script; no result.")


def convolution(inputs: int, filters: int, size: int, stride: int) -> keras.Model:
    """One dense convolution with a bias and a ReLU."""
    keras.utils.set_random_seed(0)
    image = keras.Input((size, size, inputs), name="image")
    layer = keras.layers.Conv2D(
        filters, 3, strides=stride, padding="same", activation="relu", name="conv"
    )
    return keras.Model(image, layer(image))


def with_patterns(model: keras.Model, block_size: int) -> keras.Model:
    """Removes weights, as one-shot projection does, and returns the same model."""
    settings = sparse.SparseSettings(
        connectivity_rate=RATE, block_size=block_size, spare_first=False
    )
    sparse.project_model(model, sparse.plan_constraints(model, settings))
    return model


def measure(
    shape: tuple[int, int, int, int],
    session: CompilerSession,
    device: Device,
    folder: pathlib.Path,
    trials: int,
) -> dict[str, Any]:
    """Tunes and times one layer in all its forms.

    Args:
        shape: Inputs, filters, size and stride.
        session: The session that tunes.
        device: Its device.
        folder: Where the LiteRT file goes.
        trials: The trials of each form.

    Returns:
        The layer's row in the results, as JSON types.
    """
    programs: dict[str, Task] = {}
    dense = convolution(*shape)
    (task,) = _tuned(session, dense, trials)
    for lowered in task.lowerings:
        programs[lowered.lowering] = _alone(lowered)
    kernels, flops = {}, {}
    for block_size in BLOCKS:
        model = with_patterns(convolution(*shape), block_size)
        weights = np.asarray(model.get_layer("conv").kernel)
        compact = sparse.to_fkw(weights)
        assert compact is not None and compact.block_size == block_size
        kernels[str(block_size)] = {
            "index_bytes": compact.index_bytes,
            "csr_index_bytes": 4 * (int(np.count_nonzero(weights)) + weights.shape[3] + 1),
            "weight_bytes": compact.weight.nbytes,
            "dense_bytes": weights.nbytes,
        }
        (task,) = _tuned(session, model, trials)
        pattern = task.in_lowering("pattern")
        assert pattern is not None
        name = f"pattern, {block_size}"
        programs[name] = _alone(pattern)
        flops[name] = task.flops * float(np.count_nonzero(weights)) / weights.size
        if block_size == 4:
            random = session.database.programs(pattern.mod)
            untuned_ms = statistics.median(program.latency_ms for program in random)
    path = folder / "dense.tflite"
    path.write_bytes(litert.convert(dense))
    file = ModelFile("litert", "litert", str(path))
    samples: dict[str, list[float]] = {name: [] for name in (*programs, "litert")}
    with ProgramTimer(device, session.database, session.target, num_threads=1) as timer:
        for _ in range(ROUNDS):
            for name, program in programs.items():
                samples[name].append(min(timer.samples_ms(program)))
            (timed,) = device.time_models([file], 1, MeasureConfig(max_time_sec=0.5))
            samples["litert"].append(timed.median_ms)
    return {
        "shape": list(shape),
        "latency_us": {name: 1e3 * statistics.median(own) for name, own in samples.items()},
        "range_us": {name: [1e3 * min(own), 1e3 * max(own)] for name, own in samples.items()},
        "untuned_us": 1e3 * untuned_ms,
        "effective_gflops": {
            name: own / statistics.median(samples[name]) / 1e6 for name, own in flops.items()
        },
        "storage": kernels,
    }


def _tuned(session: CompilerSession, model: keras.Model, trials: int) -> tuple[Task, ...]:
    lowered = session.lower(model)
    session.tune(lowered, trials)
    return lowered.tasks


def _alone(task: Task) -> Task:
    """A task in one lowering, without those that it could be computed in as well."""
    return dataclasses.replace(task, alternatives=())


def summary(rows: Mapping[str, Mapping[str, Any]], peak_gflops: float) -> dict[str, Any]:
    """The geometric means over all layers that the issue of speed is about."""

    def mean(ratio: Any) -> float:
        return statistics.geometric_mean(ratio(row) for row in rows.values())

    values: dict[str, Any] = {}
    for block_size in BLOCKS:
        name = f"pattern, {block_size}"

        def faster(row: Mapping[str, Any], others: Sequence[str], name: str = name) -> float:
            latencies = row["latency_us"]
            own: float = min(latencies[o] for o in others if o in latencies) / latencies[name]
            return own

        values[str(block_size)] = {
            "over_direct": mean(lambda row, f=faster: f(row, ["direct"])),
            "over_fastest_dense": mean(lambda row, f=faster: f(row, ["direct", "winograd"])),
            "over_litert": mean(lambda row, f=faster: f(row, ["litert"])),
            "share_of_peak": mean(lambda row, n=name: row["effective_gflops"][n] / peak_gflops),
            "index_overhead": mean(
                lambda row, b=str(block_size): (
                    row["storage"][b]["index_bytes"] / row["storage"][b]["csr_index_bytes"]
                )
            ),
        }
    return values


def main(argv: Sequence[str]) -> None:
    """Measures the layers and writes the results."""
    del argv
    folder = pathlib.Path(_WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "layers.json"
    rows: dict[str, Any] = json.loads(journal.read_text()) if journal.exists() else {}
    chosen = {"16, 8x8": (16, 16, 8, 1)} if _QUICK.value else dict(LAYERS)
    trials = 8 if _QUICK.value else _TRIALS.value
    with (
        open_device("local") as device,
        CompilerSession(device, folder, TuningConfig(), num_threads=1, seed=0) as session,
    ):
        peak_gflops = measure_roofline(device).peak_gflops
        for name, shape in chosen.items():
            if name not in rows:
                rows[name] = measure(shape, session, device, folder, trials)
                journal.write_text(json.dumps(rows))
            columns = {"layer": name, **rows[name]["latency_us"]}
            record.print_table("us", [columns])
    rows = {name: rows[name] for name in chosen}
    values = summary(rows, peak_gflops)
    one, four = values["1"], values["4"]
    bars = [
        record.Bar("B = 1 over direct", one["over_direct"], 2.5, True),
        record.Bar("B = 1 over the fastest dense", one["over_fastest_dense"], 1.3, True),
        record.Bar("B = 1, share of the peak", one["share_of_peak"], 0.5, True),
        record.Bar("B = 4 over direct", four["over_direct"], 5.0, True),
        record.Bar("B = 4 over the fastest dense", four["over_fastest_dense"], 2.5, True),
        record.Bar("B = 4 over LiteRT", four["over_litert"], 5.0, True),
        record.Bar("B = 4, share of the peak", four["share_of_peak"], 0.85, True),
        record.Bar("B = 1, indices of CSR", one["index_overhead"], 0.55),
        record.Bar("B = 4, indices of CSR", four["index_overhead"], 0.2),
    ]
    result = {
        "num_threads": 1,
        "trials": trials,
        "rate": RATE,
        "peak_gflops": peak_gflops,
        "layers": rows,
        "summary": values,
        "bars": [bar.to_json() for bar in bars],
    }
    print(record.write_or_try("pattern_kernels", result, folder if _QUICK.value else None))
    record.print_bars(bars)


if __name__ == "__main__":
    app.run(main)
