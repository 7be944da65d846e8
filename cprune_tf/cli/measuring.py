"""The flags and the start that all commands share which measure a model's latency."""

from __future__ import annotations

import contextlib
import pathlib
import typing
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from cprune_tf.cli import command_line
from cprune_tf.config import TuningConfig

if typing.TYPE_CHECKING:
    from cprune_tf.latency.workspace import OpenedModel

MODEL = flags.DEFINE_string(
    "model", None, "An embedded model's name, a .keras or .h5 file, or a keras.applications name."
)
DEVICE = flags.DEFINE_string("device", "local", "The device to run on; see tools/doctor.py.")
CORES = flags.DEFINE_string("cores", "", "big, middle, little or numbers like 4-7; default: all.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "The folder of programs and measurements; nothing in it is measured again."
)
THREADS = flags.DEFINE_integer("threads", 1, "Threads to tune for and run on.", lower_bound=1)
TRIALS = flags.DEFINE_integer(
    "trials", 64, "Measured programs for each task that matters.", lower_bound=1
)
DATABASE = flags.DEFINE_string(
    "database", "", "A folder of measured programs that several workdirs share."
)
RUNTIME = flags.DEFINE_string("runtime", "tvm", "What runs the model and measures it.")
PRECISION = flags.DEFINE_string("precision", "float32", "What the runtime computes in.")
FRONTEND = flags.DEFINE_enum("frontend", "keras", ("keras", "tflite"), "How TVM reads the model.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the search.")
PROTECT = flags.DEFINE_list("protect", [], "Patterns of layer names whose channels stay.")


def run_measuring(measure: Callable[[], None]) -> None:
    """Runs a command that measures; see `command_line.run_main`.

    Args:
        measure: The command, called after the flags are parsed. --help shows the docstring and
            flags of its module, which must adopt the flags of this module.
    """

    def main(_: Sequence[str]) -> None:
        # The folder is checked before TensorFlow is imported, which takes seconds.
        command_line.writable_folder("workdir", WORKDIR.value)
        command_line.import_tensorflow_quietly()
        measure()

    flags.mark_flags_as_required(["model", "workdir"])
    command_line.run_main(main, measure.__module__)


def tuning_config() -> TuningConfig:
    """Returns the tuning budget of the flags."""
    return TuningConfig(trials_per_task=TRIALS.value, database=DATABASE.value)


def open_model(model: Any) -> contextlib.AbstractContextManager[OpenedModel]:
    """Opens a model as the flags say; see `latency.workspace.open_model`."""
    from cprune_tf.latency import workspace

    return workspace.open_model(
        model,
        DEVICE.value,
        workdir(),
        tuning_config(),
        runtime=RUNTIME.value,
        precision=PRECISION.value,
        num_threads=THREADS.value,
        protect=PROTECT.value,
        seed=SEED.value,
        cores=CORES.value,
        frontend=FRONTEND.value,
    )


def workdir() -> pathlib.Path:
    """Returns the folder that the flag --workdir names."""
    return pathlib.Path(WORKDIR.value)
