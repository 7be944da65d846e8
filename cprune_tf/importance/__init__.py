"""Which filters matter least: scores of a channel group's units."""

from cprune_tf.importance.scoring import METHODS, ImportanceError, score

__all__ = ["METHODS", "ImportanceError", "score"]
