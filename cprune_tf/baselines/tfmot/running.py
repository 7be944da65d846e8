"""Runs the child process that trains a model with TFMOT."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any

import numpy as np

from cprune_tf.baselines.tfmot import job as jobs
from cprune_tf.baselines.tfmot.description import ModelDescription
from cprune_tf.baselines.tfmot.errors import TfmotError
from cprune_tf.devices.agent.exits import describe_exit
from cprune_tf.storage import files
from cprune_tf.storage.plain import to_plain

_PACKAGES = ("tensorflow_model_optimization", "tf_keras")
_CHILD = "cprune_tf.baselines.tfmot.child"
_PACKAGE_PARENT = str(pathlib.Path(__file__).parents[3])
_LOG = "log.txt"
_NUM_LAST_LINES = 4
# After the last batch, the child has a few steps and small files left to do.
_END_TIMEOUT_SEC = 600.0


@dataclasses.dataclass(frozen=True, eq=False)
class Probes:
    """What the rebuilt model must compute.

    Attributes:
        images: [n, height, width, channels] float32.
        output: The Keras 3 model's output.
        by_layer: The outputs of layers that are called once, by their index in the description.
    """

    images: jobs.Array
    output: jobs.Array
    by_layer: Mapping[int, jobs.Array]


def require_packages() -> None:
    """Raises TfmotError unless TFMOT and its Keras are installed; imports neither."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise TfmotError(
            f"The tfmot strategies need {' and '.join(missing)}, which this Python "
            f"({sys.executable}) does not find; run `pip install -c constraints.txt "
            '"cprune_tf[tfmot]"` and then `pip install --no-deps -c constraints.txt '
            "tensorflow-model-optimization` (--no-deps, because it asks for an older absl-py "
            "than it needs)."
        )


def run_child(
    job: jobs.TrainingJob,
    model: ModelDescription,
    weights: Sequence[Sequence[jobs.Array]],
    probes: Probes,
    rates: jobs.Array,
    batches: Iterable[tuple[jobs.Array, jobs.Array]],
    on_step: Callable[[int], None] | None = None,
) -> list[list[jobs.Array]]:
    """Has the child check, train and prune a model.

    Args:
        job: How it trains.
        model: What it builds.
        weights: The weights of each layer of the description.
        probes: What the rebuilt model must compute.
        rates: The learning rate of each step, [job.num_steps].
        batches: `job.num_steps` pairs of images and labels.
        on_step: Called with the number of batches that were handed over.

    Returns:
        The new weights of each layer; the given ones if `job.num_steps` is 0.

    Raises:
        TfmotError: TFMOT is not installed, refuses the model, or its process fails.
    """
    require_packages()
    with tempfile.TemporaryDirectory(prefix="cprune_tf_tfmot_") as name:
        folder = pathlib.Path(name)
        fields = {"job": dataclasses.asdict(job), "model": dataclasses.asdict(model)}
        files.write_json(folder / jobs.JOB, to_plain(fields))
        jobs.write_weights(folder / jobs.WEIGHTS, weights)
        by_layer = {f"layer/{index}": output for index, output in probes.by_layer.items()}
        np.savez(
            folder / jobs.PROBES,
            images=probes.images,
            output=probes.output,
            **by_layer,  # type: ignore[arg-type]  # keyword arguments are arrays here
        )
        np.save(folder / jobs.RATES, rates)
        _run(folder, job.num_steps, batches, on_step)
        if not job.num_steps:
            return [list(layer) for layer in weights]
        return jobs.read_weights(folder / jobs.TRAINED, len(weights))


def _run(
    folder: pathlib.Path,
    num_steps: int,
    batches: Iterable[tuple[jobs.Array, jobs.Array]],
    on_step: Callable[[int], None] | None,
) -> None:
    with open(folder / _LOG, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", _CHILD, str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(),
        )
    try:
        # A child that fails closes the pipe; its exit status and log say why.
        with contextlib.suppress(BrokenPipeError), typing.cast(IO[bytes], process.stdin) as pipe:
            for number, (images, labels) in zip(range(1, num_steps + 1), batches, strict=False):
                jobs.write_batch(pipe, images, labels)
                if on_step is not None:
                    on_step(number)
        status = process.wait(_END_TIMEOUT_SEC)
    except subprocess.TimeoutExpired:
        raise TfmotError(
            f"TFMOT's process did not end within {_END_TIMEOUT_SEC:g} s after its last batch. Its "
            f"last lines: {_last_lines(folder)}"
        ) from None
    finally:
        # Nothing is left behind, whatever ended the loop.
        process.kill()
        process.wait()
    if status == jobs.REFUSED:
        raise TfmotError(_last_lines(folder, 1))
    if status:
        raise TfmotError(
            f"TFMOT's process {describe_exit(status)}. Its last lines: {_last_lines(folder)}"
        )


def _environment() -> dict[str, Any]:
    paths = [_PACKAGE_PARENT, os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "TF_USE_LEGACY_KERAS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def _last_lines(folder: pathlib.Path, count: int = _NUM_LAST_LINES) -> str:
    text = (folder / _LOG).read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:]) or "(none)"
