"""Which filters matter least: scores of a channel group's units."""

import importlib

from cprune_tf.importance.registry import criterion_names, needs_data


def __getattr__(name: str) -> object:
    return getattr(importlib.import_module("cprune_tf.importance.scoring"), name)


__all__ = ["criterion_names", "needs_data"]
