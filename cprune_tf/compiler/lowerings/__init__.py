"""How operators are computed. Each lowering has its own module or package in this folder."""

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
