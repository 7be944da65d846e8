"""Quantisation-aware training: a float32 model learns to compute well with the rounding of int8."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import keras

from cprune_tf.accuracy import Metric
from cprune_tf.config import QuantizationConfig
from cprune_tf.data import Data
from cprune_tf.data.representative import representative_inputs
from cprune_tf.litert import Quantized
from cprune_tf.litert.imitation import read_rounding
from cprune_tf.sparse import SparseKernel
from cprune_tf.training.deployed import quantize_as_configured, score_of_file
from cprune_tf.training.rounded import RoundedForward
from cprune_tf.training.scoring import Scorer
from cprune_tf.training.trainer import FitResult, fit


@dataclasses.dataclass(frozen=True, eq=False)
class AwareResult:
    """What a quantisation-aware training did.

    Attributes:
        metric: What files were judged by.
        before: Accuracy (0..1) or score of the int8 file before, on the images that decide.
        after: That of the int8 file of the trained weights.
        kept: Whether the trained weights were kept; not if they are worse.
        untrained: The int8 file of the model before.
        quantized: That of the model as it is now.
        left_out: Layers whose weights the file rounds and the training did not.
        training: What the training did.
    """

    metric: Metric
    before: float
    after: float
    kept: bool
    untrained: Quantized = dataclasses.field(repr=False)
    quantized: Quantized = dataclasses.field(repr=False)
    left_out: tuple[str, ...]
    training: FitResult = dataclasses.field(repr=False)

    def __str__(self) -> str:
        kept = "" if self.kept else "; the weights before it are kept"
        before, after = map(self.metric.text, (self.before, self.after))
        return f"int8 file {before} before, {after} after{kept}"


def train_aware(
    model: keras.Model,
    data: Data,
    settings: QuantizationConfig,
    *,
    seed: int,
    metric: str = "top1",
    scorer: Scorer | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    log_dir: pathlib.Path | None = None,
    checkpoint: pathlib.Path | None = None,
    kept: Mapping[str, SparseKernel] | None = None,
) -> AwareResult:
    """Trains a model in place with the rounding of its int8 file.

    The model stays float32, and post-training quantisation makes its file as that of any other. The
    teacher of `settings.aware.distill` is the model as it was before. Weights change only if the
    int8 file is no worse then on the images that decide.

    Args:
        model: A trained classifier, functional or Sequential. For `SampleData`, any compiled model.
        data: Training images, and those that decide.
        settings: How int8 files are made, and how the model is trained for that.
        seed: Decides the images that ranges come from, shuffling, augmentation and dropout.
        metric: What int8 files are judged by: "top1" or "top5".
        scorer: Judges them in its place, for `SampleData`.
        on_step: Called after each step with (steps done, steps in all, loss).
        log_dir: Where to write TensorBoard scalars for each epoch.
        checkpoint: A file that keeps the state after each epoch; see `trainer.fit`.
        kept: What stays of some layers' weights; see `trainer.fit`.

    Returns:
        How good the int8 file is before and after, and the file.

    Raises:
        ConversionError: The model cannot be quantised, or its file cannot be imitated.
        TrainingError: See `trainer.fit`.
    """
    images = representative_inputs(data, settings.num_images, seed=seed)

    def quantize() -> tuple[Quantized, float]:
        quantized = quantize_as_configured(model, images, settings)
        return quantized, score_of_file(quantized.content, data, metric, scorer)

    weights = model.get_weights()
    first, before = quantize()
    rounding = read_rounding(first)
    training = fit(
        model,
        data,
        settings.aware,
        seed=seed,
        teacher=model,  # which is copied before it changes
        make_forward=lambda twin: RoundedForward(twin, rounding),
        on_step=on_step,
        log_dir=log_dir,
        checkpoint=checkpoint,
        kept=kept,
    )
    quantized, after = quantize()
    is_better = after >= before
    if not is_better:
        model.set_weights(weights)
        quantized = first
    judged_by = Metric(metric) if scorer is None else scorer.metric
    return AwareResult(
        judged_by, before, after, is_better, first, quantized, rounding.left_out, training
    )
