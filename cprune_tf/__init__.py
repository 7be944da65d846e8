"""cprune_tf: prunes Keras CNNs with the compiler in the loop, for one given device.

What is exported loads on first use, since a device's process imports this package too and has
neither TensorFlow nor the configuration's libraries.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from cprune_tf.api import PruneResult, dry_run, prune
    from cprune_tf.config import ConfigError, PruneConfig, default_config
    from cprune_tf.pruner import Inspection, Pruner

_EXPORTS = {
    "ConfigError": "cprune_tf.config",
    "Inspection": "cprune_tf.pruner",
    "PruneConfig": "cprune_tf.config",
    "PruneResult": "cprune_tf.api",
    "Pruner": "cprune_tf.pruner",
    "default_config": "cprune_tf.config",
    "dry_run": "cprune_tf.api",
    "prune": "cprune_tf.api",
}

__all__ = [
    "ConfigError",
    "Inspection",
    "PruneConfig",
    "PruneResult",
    "Pruner",
    "default_config",
    "dry_run",
    "prune",
]


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
