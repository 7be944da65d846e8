"""The registry of lowerings.

Every module and package in this folder is imported when a lowering is first looked up.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

import tvm
from tvm.s_tir import Schedule

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.lowerings.base import Lowering

# The name of the lowering that every operator has.
DIRECT = "direct"
_LOWERINGS: dict[str, Lowering] = {}


def register_lowering(kind: type[Lowering]) -> type[Lowering]:
    """Registers a lowering; decorates its class.

    Args:
        kind: The lowering's class.

    Returns:
        The same class.

    Raises:
        ValueError: If another lowering has the same name or anchor block.
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
    """Removes a lowering, so that it is no alternative any more.

    Args:
        name: The lowering's name.

    Raises:
        KeyError: If no lowering has this name.
    """
    del _LOWERINGS[name]


def find_lowering(name: str) -> Lowering:
    """Looks up a lowering.

    Args:
        name: The lowering's name.

    Raises:
        ValueError: If no lowering has this name; the message lists the names.
    """
    _discover()
    if name not in _LOWERINGS:
        names = ", ".join(sorted(_LOWERINGS))
        raise ValueError(f"There is no lowering {name!r}; expected one of {names}.")
    return _LOWERINGS[name]


def alternative_lowerings() -> tuple[Lowering, ...]:
    """All lowerings but the direct one, sorted by name."""
    _discover()
    return tuple(_LOWERINGS[name] for name in sorted(_LOWERINGS) if name != DIRECT)


def lowering_of(mod: tvm.IRModule) -> Lowering:
    """The lowering that a workload is computed in.

    Args:
        mod: A workload with one function "main".
    """
    blocks = tvm_internals.block_names(Schedule(mod))
    matches = (lowering for lowering in alternative_lowerings() if lowering.anchor in blocks)
    return next(matches, None) or find_lowering(DIRECT)


@functools.cache
def _discover() -> None:
    package = importlib.import_module("cprune_tf.compiler.lowerings")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
