"""What a model that cannot be used raises."""

from __future__ import annotations

from cprune_tf.errors import UserError


class ModelError(UserError, ValueError):
    """A model cannot be used. The message says what was received and expected, and what to do."""
