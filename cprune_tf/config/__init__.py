"""The configuration of a pruning run: typed, frozen, and convertible to an ml_collections dict.

Command lines and `configs/*.py` use `ml_collections.ConfigDict`, so that a flag can override any
field. All other code reads the frozen dataclasses, which are validated once, before any expensive
work.
"""

from __future__ import annotations

from cprune_tf.config.checks import ConfigError
from cprune_tf.config.data import DataConfig
from cprune_tf.config.deploy import DeployConfig
from cprune_tf.config.measure import MeasureConfig
from cprune_tf.config.quantization import QuantizationConfig
from cprune_tf.config.reading import default_config, from_mapping
from cprune_tf.config.run import WEIGHT_TYPES, PruneConfig
from cprune_tf.config.strategy import StrategyConfig
from cprune_tf.config.training import FitConfig, SoftStartConfig, TrainingConfig
from cprune_tf.config.tuning import TuningConfig

__all__ = [
    "WEIGHT_TYPES",
    "ConfigError",
    "DataConfig",
    "DeployConfig",
    "FitConfig",
    "MeasureConfig",
    "PruneConfig",
    "QuantizationConfig",
    "SoftStartConfig",
    "StrategyConfig",
    "TrainingConfig",
    "TuningConfig",
    "default_config",
    "from_mapping",
]
