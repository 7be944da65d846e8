"""Which filters matter least: scores of a channel group's units."""

from cprune_tf.importance.registry import (
    ImportanceError,
    ScoringRequest,
    criterion_names,
    needs_data,
    register_criterion,
)
from cprune_tf.importance.scoring import score, score_groups

__all__ = [
    "ImportanceError",
    "ScoringRequest",
    "criterion_names",
    "needs_data",
    "register_criterion",
    "score",
    "score_groups",
]
