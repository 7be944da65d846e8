"""Which images a model classifies right, and the form in which a journal keeps that."""

from __future__ import annotations

import base64

import numpy as np
import numpy.typing as npt

RANKS = {"top1": 1, "top5": 5}
"""Of each metric: among how many highest outputs the label is when an image is classified right."""

Hits = npt.NDArray[np.bool_]
"""[number of images] bool: whether the model classifies each image right."""


def pack_hits(hits: Hits) -> str:
    """Packs hits into text, eight in a byte, in base64."""
    return base64.b64encode(np.packbits(hits).tobytes()).decode("ascii")


def unpack_hits(packed: str, num_images: int) -> Hits:
    """Unpacks what `pack_hits` packed.

    Args:
        packed: The text.
        num_images: Number of hits that it holds.

    Returns:
        [num_images] bool.
    """
    octets = np.frombuffer(base64.b64decode(packed), np.uint8)
    return np.unpackbits(octets, count=num_images).astype(bool)
