"""Whether the model that is best before it is tuned is still best after tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Reranking:
    """How tuning changes the order of models.

    Attributes:
        before: What the models are ordered by before tuning.
        best_before: The best model in that order.
        its_rank_after: That model's rank by tuned latency, from 1.
        best_after: The model of least tuned latency.
        its_rank_before: That model's rank before tuning, from 1.
        price_of_choice: The tuned latency of best_before / that of best_after.
        spearman: Rank correlation of the two orders; None if one of them has a single value.
    """

    before: str
    best_before: str
    its_rank_after: int
    best_after: str
    its_rank_before: int
    price_of_choice: float
    spearman: float | None

    @property
    def is_reversed(self) -> bool:
        """Whether another model is the best after tuning."""
        return self.best_before != self.best_after


def ranks(values: Sequence[float]) -> list[int]:
    """Returns the rank of each value, from 1 for the smallest; equal values share the best rank."""
    ordered = sorted(values)
    return [1 + ordered.index(value) for value in values]


def rerank(rows: Sequence[Mapping[str, Any]], before: str, after: str) -> Reranking:
    """Compares two orders of models, by values of which the smallest is the best.

    Args:
        rows: The models, each with a "name" and both values.
        before: Name of the value before tuning.
        after: Name of the value after tuning.

    Returns:
        The comparison.
    """
    first, second = ([float(row[name]) for row in rows] for name in (before, after))
    first_ranks, second_ranks = ranks(first), ranks(second)
    best_first, best_second = int(np.argmin(first)), int(np.argmin(second))
    spearman = None
    if len(set(first)) > 1 and len(set(second)) > 1:
        spearman = float(np.corrcoef(first_ranks, second_ranks)[0, 1])
    return Reranking(
        before,
        rows[best_first]["name"],
        second_ranks[best_first],
        rows[best_second]["name"],
        first_ranks[best_second],
        second[best_first] / second[best_second],
        spearman,
    )
