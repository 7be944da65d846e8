"""The one exception that analysis, rebuilding and masking raise for input they cannot work with."""

from __future__ import annotations

from cprune_tf.errors import UserError


class GraphError(UserError, ValueError):
    """A model or a removal that cannot work: says what was received, expected, and what to do."""
