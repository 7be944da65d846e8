"""Builds models as they are without tuning: TVM's plain loops for every task."""

from __future__ import annotations

import pathlib
import unittest.mock
from collections.abc import Mapping
from typing import Any

from workloads import direct_only

from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.tuning import first_programs, tuner
from cprune_tf.config import PruneConfig, TuningConfig
from cprune_tf.devices import Device


def build_untuned(
    device: Device, config: PruneConfig, models: Mapping[str, Any], folder: pathlib.Path
) -> dict[str, pathlib.Path]:
    """Builds a library of each model with the default schedule of every task.

    Args:
        device: The device to build for.
        config: A run's config; its settings of tuning do not matter.
        models: Keras models by name.
        folder: The folder of the libraries and of their programs' measurements.

    Returns:
        The libraries by name.
    """
    tuning = TuningConfig(trials_per_task=1, trials_per_round=1, warm_start="")
    threads = config.measure.num_threads
    paths = {}
    with (
        CompilerSession(
            device, folder / "tuning", tuning, num_threads=threads, seed=config.seed
        ) as session,
        # A tuner that knows nothing of cores has the default schedule to begin with. Tasks of few
        # operations would get more programs than that one.
        unittest.mock.patch.object(first_programs, "seed_schedules", lambda *_: []),
        unittest.mock.patch.object(tuner, "first_round_size", lambda _task, _tasks, size: size),
    ):
        for name, model in models.items():
            lowered = direct_only(session.lower(model))
            session.tune(lowered, 1)
            paths[name] = folder / f"{name}.so"
            session.build(lowered, paths[name])
    return paths
