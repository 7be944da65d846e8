"""The criteria that say which filters matter least, by name.

A criterion is a function in a module of this package, registered under its name:

    @register_criterion("l1")
    def filter_sums(request: ScoringRequest) -> Array: ...

The modules are imported when a criterion is first asked for. They, like this one, must not import
Keras or TensorFlow at their top: a configuration checks names before either is loaded.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
import typing
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cprune_tf.errors import UserError

if typing.TYPE_CHECKING:
    from cprune_tf.graph import ChannelGroup

Array = npt.NDArray[np.float64]


class ImportanceError(UserError, ValueError):
    """A score that cannot be computed: says what is missing."""


@dataclasses.dataclass(frozen=True, eq=False)
class ScoringRequest:
    """What a criterion is given to score one channel group.

    Attributes:
        method: The name that the criterion was asked for by.
        model: The Keras model that the group was found in.
        group: The channel group whose units are scored.
        data: (inputs, targets) arrays, or an iterable of such batches; None where the caller has
            none.
        seed: Decides anything random.
    """

    method: str
    model: Any
    group: ChannelGroup
    data: Any
    seed: int


# Gives the importance of each unit, float64 [group.num_channels]; higher is more important.
Scorer = Callable[[ScoringRequest], Array]
# Gives the same for several groups, from (model, groups, data).
JointScorer = Callable[[Any, "Sequence[ChannelGroup]", Any], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A way to say which units of a channel group matter least.

    Attributes:
        name: What a configuration calls it.
        scorer: Computes the scores.
        needs_data: Whether it needs labelled images and a compiled model.
        joint: Scores all groups at once, for less work than one by one; None: there is no such way.
    """

    name: str
    scorer: Scorer
    needs_data: bool
    joint: JointScorer | None = None


_criteria: dict[str, Criterion] = {}


def register_criterion(
    name: str, *, needs_data: bool = False, joint: JointScorer | None = None
) -> Callable[[Scorer], Scorer]:
    """Registers the decorated function as a criterion.

    Args:
        name: What a configuration calls it.
        needs_data: Whether it needs labelled images and a compiled model.
        joint: Gives the same scores for several groups at once; None: they are scored one by one.

    Returns:
        The decorator; it gives the function back unchanged.

    Raises:
        ValueError: Where the name is taken.
    """

    def register(scorer: Scorer) -> Scorer:
        if name in _criteria:
            raise ValueError(
                f"The criterion {name!r} is registered already, by "
                f"{_criteria[name].scorer.__module__}; expected a name of its own."
            )
        _criteria[name] = Criterion(name, scorer, needs_data, joint)
        return scorer

    return register


def criterion_names() -> tuple[str, ...]:
    """The names of all criteria, in alphabetical order."""
    _import_modules()
    return tuple(sorted(_criteria))


def needs_data(name: str) -> bool:
    """Whether a criterion needs labelled images and a compiled model.

    Args:
        name: One of criterion_names().

    Returns:
        False where weights and the seed are enough.

    Raises:
        ImportanceError: There is no such criterion.
    """
    return find_criterion(name).needs_data


def find_criterion(name: str) -> Criterion:
    """The criterion of a name.

    Args:
        name: One of criterion_names().

    Returns:
        The criterion.

    Raises:
        ImportanceError: There is none of that name.
    """
    names = criterion_names()
    if name not in names:
        raise ImportanceError(f"method is {name!r}; expected one of {', '.join(names)}.")
    return _criteria[name]


@functools.cache
def _import_modules() -> None:
    """Imports every module of this package, so that each registers its criteria."""
    package = importlib.import_module(__package__)
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
        importlib.import_module(f"{__package__}.{module.name}")
