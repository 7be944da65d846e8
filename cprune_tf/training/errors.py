"""The one error of the training room."""

from __future__ import annotations


class TrainingError(ValueError):
    """A training or evaluation that cannot go on: says what happened and what to do."""
