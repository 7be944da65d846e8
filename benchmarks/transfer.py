r"""Compares pricing a pruned shape by transfer with tuning that shape from scratch.

    python benchmarks/transfer.py --workdir=runs/transfer

Convolutions of common networks are tuned once; their programs are transferred to pruned shapes (no
search). For comparison, each pruned shape is also tuned from scratch: as CPrune's authors do, by
TVM's evolutionary search over the direct lowering (`plain`, with `--plain_trials`), and by this
package's tuner with seeds and all lowerings (`tuned`, with `--tuned_trials`). The fastest programs
of all three are then timed interleaved. Shapes that were measured in this folder are not measured
again; `--budget_sec` stops early, and a later run continues. Writes results/transfer.json.
"""

from __future__ import annotations

import json
import pathlib
import time
import unittest.mock
from collections.abc import Sequence
from typing import Any

import numpy as np
import record
from absl import app, flags
from workloads import convolution, direct_only

from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.tasks import LoweredModel
from cprune_tf.compiler.tuning import first_programs
from cprune_tf.config import MeasureConfig, TuningConfig
from cprune_tf.devices import ModelFile, open_device
from cprune_tf.devices.base import Device

_BASE_TRIALS = flags.DEFINE_integer("base_trials", 64, "Trials of each unpruned shape.")
_PLAIN_TRIALS = flags.DEFINE_integer("plain_trials", 64, "Trials of the plain search.")
_TUNED_TRIALS = flags.DEFINE_integer("tuned_trials", 256, "Trials of the tuner.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the databases.", required=True)
_BUDGET_SEC = flags.DEFINE_float("budget_sec", float("inf"), "Start no shape after this time.")

# (kernel, stride, input size, filters, input channels), and the (inputs, filters) to prune to.
_BASES: dict[str, tuple[tuple[int, int, int, int, int], list[tuple[int, int]]]] = {
    "ResNet-20 stage 2": (
        (3, 1, 16, 32, 32),
        [(32, 28), (32, 24), (28, 28), (24, 24), (32, 16), (24, 16), (20, 32)],
    ),
    "ResNet-20 stage 3": (
        (3, 1, 8, 64, 64),
        [(64, 56), (64, 48), (48, 48), (56, 40), (64, 32), (40, 40), (64, 60)],
    ),
    "ResNet-20 stage 3, first": (
        (3, 2, 16, 64, 32),
        [(32, 56), (32, 48), (24, 64), (24, 48), (16, 32), (28, 40), (16, 64)],
    ),
    "3x3, 64 channels": (
        (3, 1, 16, 64, 64),
        [(64, 56), (64, 48), (48, 48), (64, 40), (40, 40), (64, 32), (56, 24)],
    ),
    "MobileNetV1 pointwise": (
        (1, 1, 14, 256, 256),
        [(256, 224), (256, 192), (192, 192), (224, 160), (160, 160), (256, 128), (128, 128)],
    ),
    "MobileNetV1 pointwise, first": (
        (1, 1, 28, 128, 64),
        [(64, 112), (64, 96), (48, 96), (48, 128), (56, 80), (32, 64), (64, 64)],
    ),
}


class Bench:
    """Three ways to get a pruned shape's latency, each with a separate database."""

    def __init__(self, device: Device, root: pathlib.Path) -> None:
        config = TuningConfig(max_rounds_without_gain=0, warm_start="")
        self._device = device
        self._root = root
        self.prices, self._plain, self._tuned = (
            CompilerSession(device, root / name, config, num_threads=1, seed=seed)
            for seed, name in enumerate(("transferred", "plain", "tuned"))
        )

    def compare(self, base: LoweredModel, model: Any) -> dict[str, Any]:
        """Prices a pruned shape, tunes it in both ways, and times the results interleaved.

        Args:
            base: The tuned, unpruned shape.
            model: A Keras model of the pruned shape.

        Returns:
            Times in seconds and latencies in us by way, as JSON types.
        """
        pruned = self.prices.lower(model)
        start = time.monotonic()
        price_ms = self.prices.price(pruned, base)
        seconds = {"transferred": time.monotonic() - start}
        files = [self._build("transferred", self.prices, pruned)]
        start = time.monotonic()
        # A tuner that knows nothing of cores starts from random programs and evolves them.
        with unittest.mock.patch.object(first_programs, "seed_schedules", lambda *_: []):
            self._plain.tune(direct_only(pruned), _PLAIN_TRIALS.value)
        seconds["plain"] = time.monotonic() - start
        files.append(self._build("plain", self._plain, direct_only(pruned)))
        start = time.monotonic()
        self._tuned.tune(pruned, _TUNED_TRIALS.value)
        seconds["tuned"] = time.monotonic() - start
        files.append(self._build("tuned", self._tuned, pruned))
        latencies = self._device.time_models(files, 1, MeasureConfig(max_time_sec=2.0))
        return {
            "price_us": price_ms * 1e3,
            "programs": sum(
                len(self.prices.database.programs(lowered.mod))
                for task in pruned.tasks
                for lowered in task.lowerings
            ),
            "seconds": seconds,
            "latency_us": {
                file.name: latency.median_ms * 1e3
                for file, latency in zip(files, latencies, strict=True)
            },
        }

    def _build(self, name: str, session: CompilerSession, lowered: LoweredModel) -> ModelFile:
        # TVM keeps loaded libraries by path, so every library needs a new path.
        path = self._root / f"{name}_{time.monotonic_ns()}.so"
        session.build(lowered, path)
        return ModelFile(name, "tvm", str(path))

    def close(self) -> None:
        """Ends the build workers."""
        for session in (self.prices, self._plain, self._tuned):
            session.close()


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Computes the figures that the README quotes."""
    latency = {
        name: np.array([row["latency_us"][name] for row in rows])
        for name in ("transferred", "plain", "tuned")
    }
    seconds = {name: np.array([row["seconds"][name] for row in rows]) for name in latency}
    prices = np.array([row["price_us"] for row in rows])

    def ranks(values: np.ndarray) -> np.ndarray:
        return values.argsort().argsort()

    return {
        "shapes": len(rows),
        "median_price_sec": float(np.median(seconds["transferred"])),
        "slowest_price_sec": float(seconds["transferred"].max()),
        "transferred_over_plain": {
            "geometric_mean_latency": float(
                np.exp(np.mean(np.log(latency["transferred"] / latency["plain"])))
            ),
            "time": float(seconds["transferred"].sum() / seconds["plain"].sum()),
        },
        "transferred_over_tuned": {
            "median_excess": float(np.median(latency["transferred"] / latency["tuned"])) - 1,
            "quartiles_excess": [
                float(q) - 1
                for q in np.quantile(latency["transferred"] / latency["tuned"], (0.25, 0.75))
            ],
            "time": float(seconds["transferred"].sum() / seconds["tuned"].sum()),
            "spearman_of_prices": float(np.corrcoef(ranks(prices), ranks(latency["tuned"]))[0, 1]),
        },
    }


def main(argv: Sequence[str]) -> None:
    """Tunes the unpruned shapes, compares every pruned shape, and writes the results."""
    del argv
    deadline = time.monotonic() + _BUDGET_SEC.value
    root = pathlib.Path(_WORKDIR.value)
    root.mkdir(parents=True, exist_ok=True)
    journal = root / "rows.jsonl"
    lines = journal.read_text().splitlines() if journal.exists() else []
    rows = [json.loads(line) for line in lines]
    with open_device("local") as device:
        bench = Bench(device, root)
        for name, ((kernel, stride, size, filters, inputs), shapes) in _BASES.items():
            finished_shapes = {
                (row["inputs"], row["filters"]) for row in rows if row["base"] == name
            }
            base = bench.prices.lower(convolution(kernel, stride, size, inputs, filters))
            bench.prices.tune(base, _BASE_TRIALS.value)
            for shape in shapes:
                if shape in finished_shapes or time.monotonic() > deadline:
                    continue
                result = bench.compare(base, convolution(kernel, stride, size, *shape))
                rows.append({"base": name, "inputs": shape[0], "filters": shape[1], **result})
                print(rows[-1], flush=True)
                with journal.open("a") as stream:
                    stream.write(json.dumps(rows[-1]) + "\n")
        bench.close()
    if len(rows) < sum(len(shapes) for _, shapes in _BASES.values()):
        print(f"{len(rows)} shapes are finished; run the command again to continue.")
        return
    path = record.write(
        "transfer",
        {
            "num_threads": 1,
            "trials": {
                "base": _BASE_TRIALS.value,
                "plain": _PLAIN_TRIALS.value,
                "tuned": _TUNED_TRIALS.value,
            },
            "bases": {name: list(base) for name, (base, _) in _BASES.items()},
            "summary": summary(rows),
            "shapes": rows,
        },
    )
    print(json.dumps(summary(rows), indent=1))
    print(path)


if __name__ == "__main__":
    app.run(main)
