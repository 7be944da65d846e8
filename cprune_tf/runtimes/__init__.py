"""Runtimes: what runs and times a model on a device, such as TVM at float32.

Each runtime is one module of this package. The module has the runtime's name and registers its
class.
"""

from __future__ import annotations

from cprune_tf.runtimes.base import Runtime, RuntimeModel, RuntimeTask, TaskCost
from cprune_tf.runtimes.registry import (
    RuntimeOptions,
    find_runtime,
    open_runtime,
    register_runtime,
)

__all__ = [
    "Runtime",
    "RuntimeModel",
    "RuntimeOptions",
    "RuntimeTask",
    "TaskCost",
    "find_runtime",
    "open_runtime",
    "register_runtime",
]
