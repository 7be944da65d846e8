"""Latency as a function of channel count: a staircase, because programs work in tiles.

A layer that may be pruned to n channels may keep more channels instead. So the latency to expect at
n channels is the lowest latency of all counts from n upwards. This *envelope* is a running minimum
from the right over the measured latencies, and it never falls as the count grows. The counts worth
pruning to are those just before the envelope rises: the right edge of a plateau has the most
channels for its latency.
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
    """Raised if a staircase cannot be used; says which one and what is wrong."""


@dataclasses.dataclass(frozen=True)
class Stair:
    """The measured latencies at one channel count.

    Attributes:
        count: Number of units kept.
        made_ms: Total latency of the subgraphs that make the channels or pass them through.
        used_ms: Total latency of the subgraphs that only read the channels.
        spread_ms: Interquartile range of the samples, combined over all these subgraphs.
    """

    count: int
    made_ms: float
    used_ms: float
    spread_ms: float

    @property
    def latency_ms(self) -> float:
        """Total latency of all subgraphs that the count affects."""
        return self.made_ms + self.used_ms


@dataclasses.dataclass(frozen=True)
class Staircase:
    """The latency of all subgraphs that a channel group's count affects, by count.

    Attributes:
        group: Name of the channel group.
        layers: The layers that make the group's channels.
        num_channels: The group's number of units in the unpruned model.
        rest_ms: Total latency of the model's other subgraphs.
        stairs: The measured counts, ascending; the last count is num_channels.
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
                f"The staircase of {self.group} has the counts {counts}; expected ascending "
                f"counts that end with {self.num_channels}."
            )

    def latency_ms(self, count: int) -> float:
        """Returns the lowest latency measured at this count or any larger count.

        Args:
            count: Number of units kept.

        Returns:
            Milliseconds; never less than at a smaller count.

        Raises:
            ValueError: If the count is below 1 or above num_channels.
        """
        return self._best(count).latency_ms

    def uncertainty_ms(self, count: int) -> float:
        """Returns the interquartile range of the latency that `latency_ms` returns."""
        return self._best(count).spread_ms

    def steps(self, tolerance: float = 0.02) -> tuple[int, ...]:
        """Returns the counts worth pruning to: the right edge of each plateau.

        Args:
            tolerance: A count must be faster than every larger step by this fraction (0..1).
                Otherwise the two are on the same plateau, and the larger has more channels.

        Returns:
            The counts, descending; the first is num_channels.
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
    """Writes staircases to a JSON file, atomically.

    Args:
        path: The file to write.
        staircases: The staircases, one for each group.

    Raises:
        StorageError: If the file cannot be written.
    """
    fields = [dataclasses.asdict(staircase) for staircase in staircases]
    files.write_json(pathlib.Path(path), {"version": _VERSION, "staircases": fields})


def load_staircases(path: str | os.PathLike[str]) -> dict[str, Staircase]:
    """Reads staircases from a JSON file.

    Args:
        path: A file written by `save_staircases`.

    Returns:
        Staircases by group name.

    Raises:
        StaircaseError: If the file does not exist or does not hold staircases.
    """
    path = pathlib.Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise StaircaseError(
                f"{path} has version {content['version']}; expected {_VERSION}. Measure the "
                "staircases again; with the same --workdir, that costs almost nothing."
            )
        staircases = [_from_json(values) for values in content["staircases"]]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise StaircaseError(
            f"{path} holds no staircases ({type(error).__name__}: {error}); expected a file "
            "written by tools/staircase.py."
        ) from error
    return {staircase.group: staircase for staircase in staircases}


def _from_json(values: dict[str, Any]) -> Staircase:
    stairs = tuple(Stair(**stair) for stair in values["stairs"])
    return Staircase(**{**values, "layers": tuple(values["layers"]), "stairs": stairs})
