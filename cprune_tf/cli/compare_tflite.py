"""Cross-checks a Keras model, its TVM library and its .tflite file on a device.

    python tools/compare_tflite.py --device=adb: --model=final.keras --library=final.so \
        --tflite=final.tflite

The same random images through all three: largest differences, agreement on the first class, and
latencies measured against each other. Exit code 1 where something is not as it should be.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from cprune_tf import config as configs
from cprune_tf.cli import command_line

_DEVICE = flags.DEFINE_string("device", "local", "Where; see tools/doctor.py.")
_MODEL = flags.DEFINE_string("model", None, "The .keras file: what the others are compared with.")
_LIBRARY = flags.DEFINE_string("library", None, "The TVM library (.so).")
_TFLITE = flags.DEFINE_string("tflite", None, "The .tflite file.")
_THREADS = flags.DEFINE_list("threads", ["1"], "Numbers of threads to measure with.")
_CORES = flags.DEFINE_string("cores", "", "big, middle, little or numbers like 4-7; default: all.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 32, "Random images.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the images.")


def run() -> None:
    """The entry point of `cprune-compare-tflite`."""
    from cprune_tf.devices import DeviceError

    flags.mark_flags_as_required(["model", "library", "tflite"])
    command_line.run_main(main, (DeviceError, ValueError, configs.ConfigError))


def main(argv: Sequence[str]) -> None:
    """Prints one line for each runtime, then the problems."""
    del argv
    command_line.import_tensorflow_quietly()
    from cprune_tf import litert, models
    from cprune_tf.devices import open_device

    model = models.load_model(_MODEL.value)
    shape = (_NUM_IMAGES.value, *model.inputs[0].shape[1:])
    images = np.random.default_rng(_SEED.value).random(shape, dtype=np.float32)
    labels = np.argmax(model.predict(images, verbose=0), axis=-1)
    deployment = litert.Deployment(model.name, model, _LIBRARY.value, _TFLITE.value)
    with open_device(_DEVICE.value, _CORES.value) as device:
        counts = tuple(int(count) for count in _THREADS.value)
        checked = litert.cross_check((deployment,), images, labels, device, thread_counts=counts)
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
