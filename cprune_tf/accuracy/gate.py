"""The accuracy gate: how accurate a candidate is, on how many images, and whether it suffices."""

from __future__ import annotations

import dataclasses

from cprune_tf.accuracy.metric import TOP1, Metric
from cprune_tf.accuracy.paired import PairedDifference


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model's accuracy on the images that decide, or its score by another metric.

    Attributes:
        accuracy: On all images that decide, 0..1, or the score (see `Metric`). If only some were
            evaluated, this is an estimate: the original's accuracy on all plus the paired
            difference on those.
        paired: The difference from the original's accuracy on the images that were evaluated; None
            for the original itself, or if the caller's own function evaluates.
        num_deciding: Number of images that decide; None if the caller's own function evaluates.
    """

    accuracy: float
    paired: PairedDifference | None = None
    num_deciding: int | None = None

    @classmethod
    def whole(cls, accuracy: float, paired: PairedDifference | None = None) -> Evaluation:
        """An accuracy on all images that decide.

        Args:
            accuracy: 0..1.
            paired: See Evaluation.

        Returns:
            The evaluation.
        """
        return cls(accuracy, paired, None if paired is None else paired.num_images)

    @property
    def is_whole(self) -> bool:
        """Whether all images that decide were evaluated."""
        return self.paired is None or self.paired.num_images == self.num_deciding

    def text(self, metric: Metric) -> str:
        """Writes the accuracy or score, and how it compares with the original's."""
        text = f"{metric.word} {metric.text(self.accuracy)}"
        if self.paired is None:
            return text
        if not self.is_whole:
            images = f"the first {self.paired.num_images:,} of {self.num_deciding:,} images"
            return f"{text}, estimated on {images} ({self.paired})"
        return f"{text} ({self.paired})"


@dataclasses.dataclass(frozen=True)
class AccuracyGate:
    """What a model's accuracy must be, or its score by another metric.

    Attributes:
        least: The accuracy (0..1) or score that the model must have on the images that decide.
        least_bound: With a confidence: what the lower confidence bound of its accuracy must be, at
            most `least`. It is the accuracy minus the margin of the paired difference.
        confidence: One-sided, in [0.5, 1); 0: the accuracy decides alone.
        metric: What the scores are.
    """

    least: float
    least_bound: float
    confidence: float = 0.0
    metric: Metric = TOP1

    def shortfall(self, evaluation: Evaluation) -> str:
        """Says in words what a model misses.

        Args:
            evaluation: The model's.

        Returns:
            The accuracy and what it misses, e.g. "accuracy 88.10% < 89.20%"; "" if the model
            passes. A model that was not evaluated whole was refused, so it never passes.
        """
        if evaluation.accuracy < self.least or not evaluation.is_whole:
            worse = ">" if self.metric.is_minimized else "<"
            return f"{evaluation.text(self.metric)} {worse} {self.metric.text(self.least)}"
        if self.confidence and evaluation.paired is not None:
            bound = evaluation.accuracy - evaluation.paired.margin(self.confidence)
            if bound < self.least_bound:
                return (
                    f"{evaluation.text(self.metric)}; with {self.confidence:.0%} confidence no "
                    f"less than {bound:.2%} < {self.least_bound:.2%}"
                )
        return ""
