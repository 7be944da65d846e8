"""Which lowerings there are. Every module and package beside this one is imported once asked."""

from __future__ import annotations

import functools
import importlib
import pkgutil

import tvm
from tvm.s_tir import Schedule

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings.base import Lowering

# The lowering that every operator has.
DIRECT = "direct"
_LOWERINGS: dict[str, Lowering] = {}


def register_lowering(kind: type[Lowering]) -> type[Lowering]:
    """Makes a lowering known; decorates its class.

    Raises:
        ValueError: Another lowering has this name or this anchor block.
    """
    for other in _LOWERINGS.values():
        if kind.name == other.name or kind.anchor == other.anchor:
            raise ValueError(
                f"The lowering {kind.name!r} with the anchor block {kind.anchor!r} clashes with "
                f"{other.name!r} with {other.anchor!r}; expected a name and an anchor of its own."
            )
    _LOWERINGS[kind.name] = kind()
    return kind


def unregister_lowering(name: str) -> None:
    """Forgets a lowering: it is an alternative no longer.

    Raises:
        KeyError: There is none of this name.
    """
    del _LOWERINGS[name]


def find_lowering(name: str) -> Lowering:
    """The lowering of a name.

    Raises:
        ValueError: There is none; says which there are.
    """
    _discover()
    if name not in _LOWERINGS:
        known = ", ".join(sorted(_LOWERINGS))
        raise ValueError(f"There is no lowering {name!r}; expected one of {known}.")
    return _LOWERINGS[name]


def alternative_lowerings() -> tuple[Lowering, ...]:
    """All lowerings but the direct one, by name."""
    _discover()
    return tuple(_LOWERINGS[name] for name in sorted(_LOWERINGS) if name != DIRECT)


def lowering_of(mod: tvm.IRModule) -> Lowering:
    """The lowering that a workload comes from.

    Args:
        mod: A workload with one function "main".
    """
    blocks = tvm_internals.block_names(Schedule(mod))
    others = (lowering for lowering in alternative_lowerings() if lowering.anchor in blocks)
    return next(others, None) or find_lowering(DIRECT)


@functools.cache
def _discover() -> None:
    package = importlib.import_module("cprune_tf.compiler.lowerings")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
