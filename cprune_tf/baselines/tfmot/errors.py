"""The one error of this baseline."""

from __future__ import annotations

from cprune_tf.errors import UserError


class TfmotError(UserError, RuntimeError):
    """TFMOT cannot prune a model, or its process failed: says what happened and what to do."""
