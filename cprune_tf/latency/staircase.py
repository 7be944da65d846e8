"""Latency against channel count: a staircase, because programs work in tiles.

A layer that may be pruned to n channels may keep more instead. So the latency to expect at n
channels is the least one of any count from n on: the *envelope*, a running minimum from the right
over what was measured. It never falls as the count grows. The counts just before it rises are those
worth pruning to: the right edge of each plateau has the most channels for its latency.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from cprune_tf.errors import UserError
from cprune_tf.storage import files

_VERSION = 1


class StaircaseError(UserError, ValueError):
    """Staircases that cannot be used; says which and what is wrong."""


@dataclasses.dataclass(frozen=True)
class Stair:
    """One measured count.

    Attributes:
        count: Units kept.
        made_ms: Subgraphs that make these channels or pass them through.
        used_ms: Subgraphs that only read them.
        spread_ms: Between the quartiles of the samples, of both together.
    """

    count: int
    made_ms: float
    used_ms: float
    spread_ms: float

    @property
    def latency_ms(self) -> float:
        """All subgraphs that the count matters to."""
        return self.made_ms + self.used_ms


@dataclasses.dataclass(frozen=True)
class Staircase:
    """The latency of everything that a channel group's count matters to.

    Attributes:
        group: The channel group.
        layers: The layers that make its channels.
        num_channels: Its units in the model as it is.
        rest_ms: The model's other subgraphs.
        stairs: By count, ascending; the last one is num_channels.
    """

    group: str
    layers: tuple[str, ...]
    num_channels: int
    rest_ms: float
    stairs: tuple[Stair, ...]

    def __post_init__(self) -> None:
        counts = [stair.count for stair in self.stairs]
        if not counts or counts != sorted(set(counts)) or counts[-1] != self.num_channels:
            raise StaircaseError(
                f"The staircase of {self.group} has the counts {counts}; expected ascending ones "
                f"that end with {self.num_channels}."
            )

    def latency_ms(self, count: int) -> float:
        """The least latency measured at this count or any larger one.

        Args:
            count: Units kept.

        Returns:
            Never less than for a smaller count.

        Raises:
            ValueError: For a count that the group cannot have.
        """
        return self._best(count).latency_ms

    def uncertainty_ms(self, count: int) -> float:
        """The spread (between quartiles) of what `latency_ms` says."""
        return self._best(count).spread_ms

    def steps(self, tolerance: float = 0.02) -> tuple[int, ...]:
        """The counts worth pruning to: the right edge of each plateau.

        Args:
            tolerance: A count must be faster than every larger step by this fraction; otherwise
                the larger one is on the same plateau and has more channels.

        Returns:
            Counts, descending; the first is num_channels.
        """
        edges: list[Stair] = []
        for stair in reversed(self.stairs):
            if not edges or stair.latency_ms < (1 - tolerance) * edges[-1].latency_ms:
                edges.append(stair)
        return tuple(stair.count for stair in edges)

    def _best(self, count: int) -> Stair:
        if not 1 <= count <= self.num_channels:
            raise ValueError(
                f"Group {self.group} cannot keep {count} units; expected 1 to {self.num_channels}."
            )
        reachable = [stair for stair in self.stairs if stair.count >= count]
        return min(reachable, key=lambda stair: stair.latency_ms)


def save_staircases(path: str | os.PathLike[str], staircases: Sequence[Staircase]) -> None:
    """Writes staircases as JSON, atomically.

    Raises:
        StorageError: Where the file system refuses.
    """
    content = {"version": _VERSION, "staircases": [dataclasses.asdict(one) for one in staircases]}
    files.write_json(pathlib.Path(path), content)


def load_staircases(path: str | os.PathLike[str]) -> dict[str, Staircase]:
    """Reads staircases.

    Args:
        path: From `save_staircases`.

    Returns:
        Staircases by group.

    Raises:
        StaircaseError: If there is no such file, or it holds something else.
    """
    path = pathlib.Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise StaircaseError(
                f"{path} has version {content['version']}; expected {_VERSION}. Measure it again: "
                "with the same --workdir that costs next to nothing."
            )
        staircases = [_from_json(values) for values in content["staircases"]]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise StaircaseError(
            f"{path} holds no staircases ({type(error).__name__}: {error}); expected what "
            "tools/staircase.py writes."
        ) from error
    return {staircase.group: staircase for staircase in staircases}


def _from_json(values: dict[str, Any]) -> Staircase:
    stairs = tuple(Stair(**stair) for stair in values["stairs"])
    return Staircase(**{**values, "layers": tuple(values["layers"]), "stairs": stairs})
