"""The flags that all commands share which prune: the config and what often replaces its fields."""

from __future__ import annotations

from absl import flags
from ml_collections import config_flags

from cprune_tf import config as configs
from cprune_tf.cli import command_line, shape_flag

flags.adopt_module_key_flags(shape_flag)
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: a Python file with get_config()."
)
WORKDIR = flags.DEFINE_string("workdir", None, "The directory to work in; made if missing.")
DEVICE = flags.DEFINE_string(
    "device", None, "Instead of config.device: local, rpc://..., tracker://... or adb:SERIAL."
)
RUNTIME = flags.DEFINE_string("runtime", None, "Instead of config.runtime: tvm or litert.")
PRECISION = flags.DEFINE_string("precision", None, "Instead of config.precision, e.g. float32.")
CORES = flags.DEFINE_string("cores", None, "Instead of config.measure.cores, e.g. big.")
TARGET_SPEEDUP = flags.DEFINE_float(
    "target_speedup", None, "Instead of config.strategy.target_speedup, e.g. 2."
)
TARGET_LATENCY_MS = flags.DEFINE_float(
    "target_latency_ms", None, "Instead of config.strategy.target_latency_ms."
)
MAX_ACCURACY_DROP = flags.DEFINE_float(
    "max_accuracy_drop",
    None,
    "Instead of config.strategy.max_accuracy_drop, e.g. 0.01 for one percentage point.",
)
RAY = flags.DEFINE_string(
    "ray",
    None,
    "Instead of config.ray_address: where independent trainings run side by side, e.g. local.",
)
RESUME = flags.DEFINE_bool("resume", False, "Continue what --workdir holds.")


def read() -> configs.PruneConfig:
    """Returns the config as the flags say, validated.

    Raises:
        ConfigError: If a field is unknown, has the wrong type or an invalid value.
    """
    values = command_line.read_config(CONFIG)
    for flag in (DEVICE, RUNTIME, PRECISION):
        if flag.value is not None:
            setattr(values, flag.name, flag.value)
    shape_flag.replace_in(values)
    if CORES.value is not None:
        values.measure.cores = CORES.value
    if RAY.value is not None:
        values.ray_address = RAY.value
    for flag in (TARGET_SPEEDUP, TARGET_LATENCY_MS, MAX_ACCURACY_DROP):
        if flag.value is not None:
            setattr(values.strategy, flag.name, flag.value)
    return configs.from_mapping(values)


def import_tensorflow() -> None:
    """Imports TensorFlow, whose remarks and those of Keras would bury a run's messages."""
    command_line.import_tensorflow_quietly()
    from absl import logging

    logging.set_verbosity(logging.ERROR)
