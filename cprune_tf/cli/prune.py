r"""Prunes a Keras model for a device, led by what the compiler measures on it.

    python tools/prune.py --config=configs/fashion_resnet8.py --workdir=runs/demo

Any field of the config can be overridden, e.g. --config.strategy.cprune.alpha=0.99 or
--config.model=my_model.keras --config.data.name=my_images.npz. A run that was stopped continues
with --resume; finished measurements and training are not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from cprune_tf import config as configs
from cprune_tf.cli import command_line

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: a Python file with get_config()."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory; made if missing.")
_DEVICE = flags.DEFINE_string(
    "device", None, "Instead of config.device: local, rpc://..., tracker://... or adb:SERIAL."
)
_CORES = flags.DEFINE_string("cores", None, "Instead of config.measure.cores, e.g. big.")
_TARGET_SPEEDUP = flags.DEFINE_float(
    "target_speedup", None, "Instead of config.strategy.target_speedup, e.g. 2."
)
_TARGET_LATENCY_MS = flags.DEFINE_float(
    "target_latency_ms", None, "Instead of config.strategy.target_latency_ms."
)
_MAX_ACCURACY_DROP = flags.DEFINE_float(
    "max_accuracy_drop",
    None,
    "Instead of config.strategy.max_accuracy_drop, e.g. 0.01 for one percentage point.",
)
_RESUME = flags.DEFINE_bool("resume", False, "Continue the run in --workdir.")


def run() -> None:
    """The entry point of `cprune-prune`."""
    flags.mark_flags_as_required(["config", "workdir"])
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Prunes as the flags say and prints the report."""
    del argv
    values = command_line.read_config(_CONFIG)
    if _DEVICE.value is not None:
        values.device = _DEVICE.value
    if _CORES.value is not None:
        values.measure.cores = _CORES.value
    for flag in (_TARGET_SPEEDUP, _TARGET_LATENCY_MS, _MAX_ACCURACY_DROP):
        if flag.value is not None:
            setattr(values.strategy, flag.name, flag.value)
    config = configs.from_mapping(values)
    # The import takes seconds, so the command line was checked first.
    command_line.import_tensorflow_quietly()
    import rich.console
    from absl import logging

    # Remarks of TensorFlow and Keras would bury the messages of the run.
    logging.set_verbosity(logging.ERROR)
    from cprune_tf import api
    from cprune_tf.report import terminal

    result = api.prune(
        config.model,
        device=config.device,
        config=config,
        workdir=_WORKDIR.value,
        resume=_RESUME.value,
    )
    console = rich.console.Console()
    console.print(terminal.render(result.report))
    console.print(f"\nReport: {result.workdir / 'report.html'}")


if __name__ == "__main__":
    run()
