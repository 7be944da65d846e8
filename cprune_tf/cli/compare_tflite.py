"""Cross-checks a Keras model, its TVM library and its .tflite file on a device.

    python tools/compare_tflite.py --device=adb: --model=final.keras --library=final.so \
        --tflite=final.tflite

All three compute the same random images. Printed are the largest differences, how often the first
class agrees, and latencies measured against each other. The exit code is 1 if a check fails.

    python tools/compare_tflite.py --layers --device=adb: --model=final.keras --workdir=runs/phone

This shows how long each Keras layer takes in TVM and in LiteRT, side by side. The workdir is that
of a run, whose programs are used, or a new one; tasks without programs are tuned first.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from cprune_tf import config as configs
from cprune_tf.cli import command_line, loading
from cprune_tf.storage import files

flags.adopt_module_key_flags(loading)
_DEVICE = flags.DEFINE_string("device", "local", "The device to run on; see tools/doctor.py.")
_MODEL = flags.DEFINE_string("model", None, "The .keras file, with which the others are compared.")
_LIBRARY = flags.DEFINE_string("library", None, "The TVM library (.so).")
_TFLITE = flags.DEFINE_string("tflite", None, "The .tflite file.")
_THREADS = flags.DEFINE_list("threads", ["1"], "Numbers of threads to measure with.")
_CORES = flags.DEFINE_string("cores", "", "big, middle, little or numbers like 4-7; default: all.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 32, "Number of random images.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the images.")
_LAYERS = flags.DEFINE_bool("layers", False, "Compare the times of single layers instead.")
_WORKDIR = flags.DEFINE_string("workdir", None, "With --layers: the folder of TVM's programs.")
_DATABASE = flags.DEFINE_string(
    "database", "", "With --layers: the folder of programs that the run shares with others, if any."
)
_TRIALS = flags.DEFINE_integer(
    "trials", 64, "With --layers: measured programs for each task that matters.", lower_bound=1
)
_JSON = flags.DEFINE_string("json", None, "With --layers: also write the result to this file.")


def run() -> None:
    """The entry point of `cprune-compare-tflite`."""
    flags.mark_flags_as_required(["model"])
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Compares outputs, or single layers."""
    del argv
    thread_counts = _check_flags()
    command_line.import_tensorflow_quietly()

    model = loading.load_for_compiling(_MODEL.value)
    if _LAYERS.value:
        _compare_layers(model, thread_counts[0])
    else:
        _compare_outputs(model, thread_counts)


def _check_flags() -> tuple[int, ...]:
    """Checks the flags, and the files that they name; returns the numbers of threads.

    Raises:
        UsageError: A flag is missing or cannot be used.
    """
    needed_flags = [_WORKDIR] if _LAYERS.value else [_LIBRARY, _TFLITE]
    if missing := [f"--{flag.name}" for flag in needed_flags if flag.value is None]:
        raise command_line.UsageError(
            f"{' and '.join(missing)} must be given {'with' if _LAYERS.value else 'without'} "
            "--layers; see --help."
        )
    thread_counts = command_line.thread_counts(_THREADS.value)
    if _LAYERS.value and len(thread_counts) != 1:
        raise command_line.UsageError(
            f"--threads is {list(thread_counts)}; --layers takes one number."
        )
    if _LAYERS.value:
        command_line.writable_folder("workdir", _WORKDIR.value)
        if _JSON.value:
            command_line.writable_file("json", _JSON.value)
    else:
        command_line.existing_file("library", _LIBRARY.value)
        command_line.existing_file("tflite", _TFLITE.value)
    return thread_counts


def _compare_layers(model: Any, num_threads: int) -> None:
    """Prints one line for each smallest set of layers that both runtimes compute separately."""
    from cprune_tf.latency.side_by_side import compare_layers
    from cprune_tf.latency.workspace import open_model
    from cprune_tf.report import latency_tables

    tuning = configs.TuningConfig(trials_per_task=_TRIALS.value, database=_DATABASE.value)
    with open_model(
        model,
        _DEVICE.value,
        pathlib.Path(_WORKDIR.value),
        tuning,
        num_threads=num_threads,
        seed=_SEED.value,
        cores=_CORES.value,
    ) as opened:
        print(opened.device.info())
        if (accelerator := opened.device.accelerator()) is not None:
            print(f"TVM computes on {accelerator}, LiteRT on the CPU.")
        print("Tuning tasks without programs in the workdir, then timing three times.", flush=True)
        opened.tune(_TRIALS.value)
        compared = compare_layers(opened, configs.MeasureConfig(num_threads=num_threads))
    command_line.make_console().print(latency_tables.side_by_side_table(compared))
    if _JSON.value:
        files.write_json(pathlib.Path(_JSON.value), compared.to_json())


def _compare_outputs(model: Any, thread_counts: tuple[int, ...]) -> None:
    """Prints one line for each runtime, then the problems."""
    from cprune_tf.cross_check import check_deployments
    from cprune_tf.deployment import Deployment
    from cprune_tf.devices import open_device

    if len(model.inputs) != 1:
        raise command_line.UsageError(
            f"--model: {model.name!r} has {len(model.inputs)} inputs; expected one, the image."
        )
    shape = (_NUM_IMAGES.value, *model.inputs[0].shape[1:])
    images = np.random.default_rng(_SEED.value).random(shape, dtype=np.float32)
    labels = np.argmax(model.predict(images, verbose=0), axis=-1)
    deployment = Deployment(model.name, model, _LIBRARY.value, _TFLITE.value)
    with open_device(_DEVICE.value, _CORES.value) as device:
        checked = check_deployments(
            (deployment,), images, labels, device, thread_counts=thread_counts
        )
    print(checked.device)
    for runtime in ("tvm", "litert"):
        result = checked.result(model.name, runtime)
        print(
            f"{runtime}: differs from Keras by at most {result.max_abs_error:.2g} "
            f"({result.max_relative_error:.2g} of the largest output), same first class in "
            f"{result.top1_agreement:.1%}"
        )
        for latency in result.latencies:
            print(f"    {latency}")
    if checked.problems:
        print("\n".join(f"problem: {problem}" for problem in checked.problems))
        sys.exit(0 if checked.device.emulated and len(checked.problems) == 1 else 1)


if __name__ == "__main__":
    run()
