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
from cprune_tf.data import ImageData
from cprune_tf.data.representative import representative_images
from cprune_tf.litert import Quantized
from cprune_tf.litert.evaluation import evaluate_batches
from cprune_tf.litert.pixels import PREPROCESSING, to_pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Int8Judge:
    """Quantises models and finds out what their files classify right, with LiteRT here.

    Attributes:
        config: The run's configuration.
        data: Ranges come from the training images; the images that decide are judged.
    """

    config: PruneConfig
    data: ImageData
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
        images = to_pixels(self._representative, data.mean, data.std)
        return self._quantize(model, images, (PREPROCESSING,))

    def _quantize(
        self, model: keras.Model, images: npt.NDArray[Any], keep_float: tuple[str, ...] = ()
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
        content = self.quantize(model)
        images, labels = self.data.judges
        yield from evaluate_batches(
            content, images, labels, self.config.strategy.metric, order=order
        )

    @functools.cached_property
    def _representative(self) -> npt.NDArray[np.float32]:
        count = self.config.quantization.num_images
        return representative_images(self.data, count, seed=self.config.seed)


def quantize_as_configured(
    model: keras.Model,
    images: npt.NDArray[Any],
    settings: QuantizationConfig,
    keep_float: tuple[str, ...] = (),
) -> Quantized:
    """Quantises a model as a config says; see `litert.quantize`.

    Args:
        model: The model.
        images: The images that the ranges come from, [num_images, ...].
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
