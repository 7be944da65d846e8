"""What a latency is measured with: a runtime (TVM, LiteRT) at a precision, on one device.

A runtime is a module of this package, named as the runtime is, that registers itself.
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
