"""Judges models by the int8 file that would be deployed, instead of by Keras's outputs."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from cprune_tf import litert
from cprune_tf.accuracy import Hits
from cprune_tf.config import PruneConfig, QuantizationConfig
from cprune_tf.data import Data, ImageData
from cprune_tf.data.representative import representative_inputs
from cprune_tf.litert import Quantized
from cprune_tf.litert.conversion import Images
from cprune_tf.litert.evaluation import evaluate_batches, outputs_of_file
from cprune_tf.litert.pixels import PREPROCESSING, to_pixels
from cprune_tf.training.scoring import Scorer


@dataclasses.dataclass(frozen=True, eq=False)
class Int8Judge:
    """Quantises models and finds out how good their files are, with LiteRT here.

    Attributes:
        config: The run's configuration.
        data: Ranges come from the training images; the images that decide are judged.
        scorer: Judges all outputs of another task than classifying one image; None: the images'
            classes tell.
    """

    config: PruneConfig
    data: Data
    scorer: Scorer | None = None
    # The last file, by the digest of its model: what was judged is built next.
    _last: dict[str, bytes] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def quantize(self, model: keras.Model) -> bytes:
        """Quantises a model as `config.quantization` says.

        Args:
            model: The model.

        Returns:
            The content of the int8 file.

        Raises:
            ConversionError: The model cannot be quantised.
        """
        digest = _digest(model)
        if digest not in self._last:
            content = self._quantize(model, self._representative)
            self._last.clear()
            self._last[digest] = content
        return self._last[digest]

    def quantize_taking_pixels(self, model: keras.Model) -> bytes:
        """Quantises a model that preprocesses; preprocessing stays exact, in float32.

        Args:
            model: From `litert.pixels.taking_pixels`.

        Returns:
            The content of the int8 file, which takes uint8 pixels.

        Raises:
            ConversionError: The model cannot be quantised.
        """
        data = self.config.data
        images = to_pixels(self._representative[0], data.mean, data.std)
        return self._quantize(model, images, (PREPROCESSING,))

    def _quantize(
        self, model: keras.Model, images: Images, keep_float: tuple[str, ...] = ()
    ) -> bytes:
        return quantize_as_configured(model, images, self.config.quantization, keep_float).content

    def evaluate_batches(
        self, model: keras.Model, order: npt.NDArray[np.integer[Any]] | None
    ) -> Iterator[Hits]:
        """Hits on the images that decide, batch by batch; see `evaluation.evaluate_batches`.

        Args:
            model: The model.
            order: The indices of all images in the order of evaluation; None: as they are.

        Yields:
            [images in the batch] bool.

        Raises:
            ConversionError: The model cannot be quantised.
        """
        assert isinstance(self.data, ImageData)
        images, labels = self.data.judges
        yield from evaluate_batches(
            self.quantize(model), images, labels, self.config.strategy.metric, order=order
        )

    def score(self, model: keras.Model) -> float:
        """Returns the score of a model's file on the samples that decide.

        Args:
            model: The model.

        Raises:
            ConversionError: The model cannot be quantised.
            TrainingError: The file's outputs are not finite.
        """
        content, metric = self.quantize(model), self.config.strategy.metric
        return score_of_file(content, self.data, metric, self.scorer)

    @functools.cached_property
    def _representative(self) -> list[npt.NDArray[Any]]:
        count = self.config.quantization.num_images
        return representative_inputs(self.data, count, seed=self.config.seed)


def score_of_file(content: bytes, data: Data, metric: str, scorer: Scorer | None) -> float:
    """Judges a file on the samples that decide.

    Args:
        content: The content of a `.tflite` file.
        data: The data.
        metric: "top1" or "top5", where there is no scorer.
        scorer: Judges all outputs of another task than classifying one image.

    Returns:
        The accuracy, 0..1, or the score.

    Raises:
        ConversionError: LiteRT cannot run the file.
        TrainingError: The scorer's outputs are not finite.
    """
    if scorer is not None:
        inputs, labels = data.judges
        return scorer.of_outputs(outputs_of_file(content, inputs), labels)
    assert isinstance(data, ImageData)
    return litert.evaluate(content, *data.judges, metric)


def quantize_as_configured(
    model: keras.Model,
    images: Images,
    settings: QuantizationConfig,
    keep_float: tuple[str, ...] = (),
) -> Quantized:
    """Quantises a model as a config says; see `litert.quantize`.

    Args:
        model: The model.
        images: The images that the ranges come from, [num_images, ...]; one array for each input,
            or the only one.
        settings: How files are quantised.
        keep_float: Patterns of further layers that stay float32.

    Returns:
        The int8 file, and what is known about it.

    Raises:
        ConversionError: The model cannot be quantised.
    """
    return litert.quantize(
        model,
        images,
        keep_float=(*settings.keep_float, *keep_float),
        inputs=settings.inputs,
        correct_bias=settings.correct_bias,
    )


def _digest(model: keras.Model) -> str:
    """Returns a text that is equal for models with equal layers and weights."""
    found = hashlib.sha256(model.to_json().encode())
    for weight in model.get_weights():
        found.update(np.ascontiguousarray(weight).tobytes())
    return found.hexdigest()
