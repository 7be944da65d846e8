"""The exception that analysis, rebuilding and masking raise for input they cannot work with."""

from __future__ import annotations

from cprune_tf.errors import UserError


class GraphError(UserError, ValueError):
    """A model or removal cannot be used; the message says what was expected and what to do."""
