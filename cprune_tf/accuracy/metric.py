"""What models are judged by: how its values become scores, and how scores read.

Scores are kept so that higher is better, everywhere: of a metric that is minimised, such as a mean
absolute error, the score is the negative. Classifiers' scores are accuracies, 0..1.
"""

from __future__ import annotations

import dataclasses

from cprune_tf.accuracy.hits import RANKS

_PRESET_LABELS = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}
_ACCURACY = "accuracy"
# Parts of the names of Keras's metrics and losses that are minimised.
_MINIMIZED_PARTS = ("error", "loss", "crossentropy", "divergence", "hinge", "poisson", "log_cosh")
_MINIMIZED_NAMES = ("mae", "mse", "mape", "msle", "rmse", "logcosh")
MODES = ("auto", "max", "min")
# How people write parts of the names of metrics.
_SPELLINGS = {"iou": "IoU"} | {
    name: name.upper() for name in ("auc", "mae", "mse", "mape", "msle", "rmse", "psnr", "ssim")
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """What models are judged by.

    Attributes:
        name: "top1", "top5", the name of a metric that the model was compiled with, or whatever
            the caller's own function gives.
        is_minimized: Whether lower values are better.
    """

    name: str = "top1"
    is_minimized: bool = False

    @classmethod
    def named(cls, name: str, mode: str = "auto") -> Metric:
        """Finds out which values of a metric are better.

        Args:
            name: See Metric.
            mode: "max": higher ones; "min": lower ones; "auto": lower ones if the name says so, as
                those of errors and losses do.
        """
        lower = name.lower()
        says_so = any(part in lower for part in _MINIMIZED_PARTS) or (
            lower.split("_")[-1] in _MINIMIZED_NAMES
        )
        return cls(name, says_so if mode == "auto" else mode == "min")

    @property
    def is_rank(self) -> bool:
        """Whether each image is classified right or not: the presets for classifiers."""
        return self.name in RANKS

    @property
    def is_accuracy(self) -> bool:
        """Whether values are fractions (0..1) of right answers, which read as per cent."""
        return self.is_rank or (self.name.endswith(_ACCURACY) and not self.is_minimized)

    @property
    def label(self) -> str:
        """The metric's name for people, e.g. "top-1 accuracy" or "mean IoU"."""
        words = self.name.replace("io_u", "iou").split("_")
        spelled = " ".join(_SPELLINGS.get(word, word) for word in words)
        return _PRESET_LABELS.get(self.name, spelled)

    @property
    def heading(self) -> str:
        """The label at the beginning of a line, e.g. "Mean IoU"."""
        return capitalized(self.label)

    @property
    def word(self) -> str:
        """What a score is called in a sentence: "accuracy", or the metric's name."""
        return _ACCURACY if self.is_rank else self.label

    @property
    def items(self) -> str:
        """What the data are called: classifiers' are images."""
        return "images" if self.is_rank else "samples"

    def score(self, value: float) -> float:
        """Turns a value of the metric into a score, of which higher is better, or back."""
        return -value if self.is_minimized else value

    def drop(self, fraction: float, reference: float) -> float:
        """How far a score may be below another.

        Args:
            fraction: Of accuracies: the difference itself (0.01 = one percentage point). Of all
                other metrics, whose unit may be anything: a fraction of the reference.
            reference: The other score.

        Returns:
            A difference of scores, at least 0.
        """
        return fraction if self.is_accuracy else fraction * abs(reference)

    def scaled(self, score: float, fraction: float) -> float:
        """The lowest score that still is a fraction (0..1] of another.

        Args:
            score: The other. If it is negative, as all scores of an error, the lowest is as many
                times further from zero.
            fraction: The fraction.
        """
        return fraction * score if score >= 0 else score / fraction

    def text(self, score: float) -> str:
        """Writes a score as the metric's value: "88.10%", or "0.1234"."""
        return f"{score:.2%}" if self.is_accuracy else f"{self.score(score):.4g}"

    @property
    def limit(self) -> str:
        """What stands before a required value: "at most " where lower values are better."""
        return "at most " if self.is_minimized else ""


def capitalized(text: str) -> str:
    """Writes a text at the beginning of a sentence; unlike `str.capitalize`, it keeps "IoU"."""
    return text[:1].upper() + text[1:]


TOP1 = Metric()
"""What classifiers are judged by where nothing else is said."""
