"""Chooses the images that decide which candidates are accepted.

Validation images that were set apart from the training images are no use for a model that was
trained on all of them: it knows their labels by heart, and no candidate that is trained without
them can reach its accuracy. Half of the test images decide then, and the other half is quoted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import keras

from cprune_tf.config import DataConfig
from cprune_tf.data import Data, ImageData
from cprune_tf.data.splitting import judge_by_test_images
from cprune_tf.training.evaluation import evaluate

# One-sided test: a model that never saw the images is suspected in 1 of 20 cases, which costs no
# more than a smaller set of quoted images.
_SUSPICIOUS_DEVIATIONS = 1.645


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Data with the images that decide.

    Attributes:
        data: The data to prune with.
        reason: Why these images decide, with the numbers; "" if it needs no reason.
    """

    data: Data
    reason: str


def choose_judges(
    model: keras.Model,
    data: ImageData,
    config: DataConfig,
    reload: Callable[[DataConfig], ImageData],
    *,
    metric: str = "top1",
) -> Judged:
    """Chooses the images that decide.

    Args:
        model: The original classifier.
        data: As loaded; returned as they are unless their validation images come from the training
            images.
        config: Of the data.
        reload: Loads the data with another config.
        metric: The metric of accuracies; see `evaluate`.

    Returns:
        The data, and why if they are not as loaded.
    """
    if data.validation_images is None or data.validation_source != "train":
        return Judged(data, "")
    reason = "config.data.validation_source is 'test'."
    if config.validation_source == "auto":
        reason = _suspicion(model, data, metric)
    if config.validation_source == "train" or not reason:
        return Judged(data, "")
    whole = reload(dataclasses.replace(config, validation_fraction=0.0))
    return Judged(judge_by_test_images(whole), reason)


def _suspicion(model: keras.Model, data: ImageData, metric: str) -> str:
    """Says by how much the model is too good on the validation images; "" if it is not."""
    known = evaluate(model, data, metric, part="validation")
    fresh = evaluate(model, data, metric)
    num_known, num_fresh = len(data.judges[1]), len(data.test_labels)
    pooled = (known * num_known + fresh * num_fresh) / (num_known + num_fresh)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / num_known + 1 / num_fresh))
    if known - fresh <= _SUSPICIOUS_DEVIATIONS * deviation:
        return ""
    return (
        f"The original has {known:.2%} on images set apart from the training images and "
        f"{fresh:.2%} on the test images: it was probably trained on the former."
    )
