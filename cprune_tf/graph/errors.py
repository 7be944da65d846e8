"""The one exception that analysis, rebuilding and masking raise for input they cannot work with."""

from __future__ import annotations


class GraphError(ValueError):
    """A model or a removal that cannot work: says what was received, expected, and what to do."""
