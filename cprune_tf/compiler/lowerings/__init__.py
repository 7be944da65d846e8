"""How operators are computed: each lowering in a module or package of its own."""

from cprune_tf.compiler.lowerings.base import Lowering, OperatorCall, ScheduleFunction, Seed
from cprune_tf.compiler.lowerings.registry import (
    DIRECT,
    alternative_lowerings,
    find_lowering,
    lowering_of,
    register_lowering,
    unregister_lowering,
)

__all__ = [
    "DIRECT",
    "Lowering",
    "OperatorCall",
    "ScheduleFunction",
    "Seed",
    "alternative_lowerings",
    "find_lowering",
    "lowering_of",
    "register_lowering",
    "unregister_lowering",
]
