r"""The price of a candidate by transfer against tuning the pruned shapes from scratch.

    python benchmarks/transfer.py --workdir=runs/transfer_benchmark

One convolution is tuned; its programs are transferred to pruned shapes (no search), and each shape
is tuned from scratch beside it. Writes results/transfer.json.
"""

from __future__ import annotations

import math
import pathlib
import statistics
import time
from collections.abc import Sequence

import record
from absl import app, flags

from cprune_tf.compiler.session import CompilerSession
from cprune_tf.config import TuningConfig
from cprune_tf.devices import open_device

_BASE_TRIALS = flags.DEFINE_integer("base_trials", 64, "Trials of the unpruned shape.")
_TRIALS = flags.DEFINE_integer("trials", 64, "Trials of each pruned shape, from scratch.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the databases lie.", required=True)
_SIZE, _CHANNELS = 16, 64
_SHAPES = [(64, 56), (64, 48), (48, 48), (64, 40), (40, 40), (64, 32), (32, 32), (56, 24)]


def convolution(inputs: int, filters: int) -> object:
    """A model of one 3x3 convolution with bias and ReLU."""
    import keras

    image = keras.Input((_SIZE, _SIZE, inputs), name="x")
    y = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name="conv")(image)
    return keras.Model(image, y)


def main(argv: Sequence[str]) -> None:
    """Tunes the base, then prices and tunes every pruned shape."""
    del argv
    root = pathlib.Path(_WORKDIR.value)
    config = TuningConfig(trials_per_round=32, population_size=256, programs_per_task=8)
    rows = []
    with (
        open_device("local") as device,
        CompilerSession(device, root / "transferred", config, num_threads=1, seed=0) as prices,
        CompilerSession(device, root / "scratch", config, num_threads=1, seed=1) as scratch,
    ):
        base = prices.lower(convolution(_CHANNELS, _CHANNELS))
        prices.tune(base, _BASE_TRIALS.value)
        for inputs, filters in _SHAPES:
            pruned = prices.lower(convolution(inputs, filters))
            start = time.monotonic()
            price_ms = prices.price(pruned, base)
            price_sec = time.monotonic() - start
            start = time.monotonic()
            scratch.tune(pruned, _TRIALS.value)
            tuning_sec = time.monotonic() - start
            tuned_ms = pruned.latency_ms(scratch.database)
            rows.append(
                {
                    "inputs": inputs,
                    "filters": filters,
                    "transferred_us": price_ms * 1e3,
                    "transfer_sec": price_sec,
                    "tuned_us": tuned_ms * 1e3,
                    "tuning_sec": tuning_sec,
                    "ratio": price_ms / tuned_ms,
                }
            )
            print(rows[-1], flush=True)
        path = record.write(
            "transfer",
            {
                "base": f"3x3 conv, {_SIZE}x{_SIZE}x{_CHANNELS} -> {_CHANNELS}, 1 thread",
                "base_trials": _BASE_TRIALS.value,
                "base_us": base.latency_ms(prices.database) * 1e3,
                "trials": _TRIALS.value,
                "shapes": rows,
                "geometric_mean_ratio": math.exp(
                    statistics.fmean(math.log(row["ratio"]) for row in rows)
                ),
                "median_transfer_sec": statistics.median(r["transfer_sec"] for r in rows),
                "median_tuning_sec": statistics.median(r["tuning_sec"] for r in rows),
            },
        )
    print(path)


if __name__ == "__main__":
    app.run(main)
