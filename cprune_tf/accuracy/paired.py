"""The difference between two models' accuracies on the same images.

Both models find the same images hard, so the difference is known far better than two accuracies on
different images would tell: only images that one of the two gets right count (McNemar, 1947).
"""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np

from cprune_tf.accuracy.hits import Hits


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """A model's accuracy minus the original's, on the same images.

    Attributes:
        num_images: Number of images, 1 or more.
        gained: Images that the model classifies right and the original does not.
        lost: Images that the original classifies right and the model does not.
    """

    num_images: int
    gained: int
    lost: int

    @classmethod
    def of(cls, model: Hits, original: Hits) -> PairedDifference:
        """Compares the hits of both models.

        Args:
            model: [number of images] bool.
            original: [number of images] bool, of the same images in the same order.

        Returns:
            The difference.
        """
        gained = int(np.count_nonzero(model & ~original))
        return cls(len(original), gained, int(np.count_nonzero(original & ~model)))

    @property
    def difference(self) -> float:
        """The model's accuracy minus the original's, -1..1."""
        return (self.gained - self.lost) / self.num_images

    @property
    def standard_error(self) -> float:
        """Standard error of the difference, if the images are a sample of all that there are."""
        # An image contributes -1, 0 or 1; this is the standard deviation of their mean.
        variance = (self.gained + self.lost) / self.num_images - self.difference**2
        return math.sqrt(max(variance, 0.0) / self.num_images)

    def margin(self, confidence: float) -> float:
        """How far the difference among all images may be below the measured one.

        Args:
            confidence: One-sided, in [0.5, 1).

        Returns:
            The distance of the lower confidence bound, by the normal approximation, 0..1.
        """
        return statistics.NormalDist().inv_cdf(confidence) * self.standard_error

    def __str__(self) -> str:
        points, error = 100 * self.difference, 100 * self.standard_error
        return f"{points:+.2f} points from the original's, standard error {error:.2f}"
