"""The tensors of a flat graph."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the graph: an output of one call and an input of others.

    Attributes:
        shape: The sizes of its axes, the batch axis first; None for an unknown size.
        dtype: The name of its type, e.g. "float32".
    """

    shape: Shape
    dtype: str
