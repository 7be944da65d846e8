"""A copy of a model that computes the same and trains faster.

Keras' batch normalisation runs as a dozen elementwise operations, which on a CPU is a quarter of a
small network's training time. The copy uses TensorFlow's fused kernel. Its layers may compute in
bfloat16, while weights, gradients and statistics stay float32. Training a copy also leaves the
given model's compile state, optimizer and trainable flags alone.
"""

from __future__ import annotations

import itertools
from typing import Any

import keras
import tensorflow as tf

from cprune_tf.devices.agent.description import cpu_features
from cprune_tf.graph import keras_internals
from cprune_tf.graph.copying import copy_model

# Instructions that multiply bfloat16: Intel's and AMD's, Intel's by tiles, Arm's.
_BFLOAT16_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation of [batch, height, width, channels] by one kernel."""

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Normalises `inputs`; see keras.layers.BatchNormalization."""
        if mask is not None:
            return super().call(inputs, training=training, mask=mask)
        by_batch = bool(training and self.trainable)
        channels = inputs.shape[-1]
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value if self.scale else tf.ones([channels]),
            offset=self.beta.value if self.center else tf.zeros([channels]),
            mean=tf.zeros([0]) if by_batch else self.moving_mean.value,
            variance=tf.zeros([0]) if by_batch else self.moving_variance.value,
            epsilon=self.epsilon,
            is_training=by_batch,
        )
        if by_batch:
            # The kernel's variance is the unbiased estimate, Keras keeps the biased one.
            count = tf.cast(tf.size(inputs) // channels, tf.float32)
            variance *= (count - 1.0) / count
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs


def training_twin(model: keras.Model, *, seed: int = 0, precision: str = "float32") -> keras.Model:
    """Copies a model for training: same layers and weights, fused batch normalisation.

    Args:
        model: Functional or Sequential. It is not changed.
        seed: For the copy's dropout and noise layers, so that training can be repeated exactly.
        precision: What the layers compute in: "float32" or "mixed_bfloat16". The latter concerns
            Keras's own layers that compute in float32; those that make the outputs stay as they
            are, and so does every weight.

    Returns:
        An independent model whose `get_weights()` fit the given one.
    """
    numbers = itertools.count(1)
    last = _output_layers(model)

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if _draws_random_numbers(config):
            config["seed"] = seed * 10_007 + next(numbers)
        if precision != "float32" and id(layer) not in last and _is_plain_float32(layer):
            config["dtype"] = precision
        cls = FusedBatchNormalization if _can_be_fused(layer) else type(layer)
        return keras_internals.recreate_layer(layer, config, cls)

    return copy_model(model, copy)


def chosen_precision(precision: str) -> str:
    """Resolves "auto": mixed_bfloat16 where this machine's processor multiplies bfloat16.

    Args:
        precision: "float32", "mixed_bfloat16" or "auto".

    Returns:
        "float32" or "mixed_bfloat16".
    """
    if precision != "auto":
        return precision
    return "mixed_bfloat16" if _BFLOAT16_FEATURES & cpu_features() else "float32"


def statistics_twin(model: keras.Model, *, include_frozen: bool = True) -> keras.Model:
    """Copies a model so that each training step stores its batch's statistics, undiluted.

    Args:
        model: Functional or Sequential. It is not changed.
        include_frozen: Whether layers that are not trainable do so, too.

    Returns:
        A copy whose batch normalisation layers have momentum 0 and whose dropout drops nothing.
    """

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            config.update(momentum=0.0, trainable=include_frozen or layer.trainable)
        elif _draws_random_numbers(config) and "rate" in config:
            config["rate"] = 0.0
        return keras_internals.recreate_layer(layer, config)

    return copy_model(model, copy)


def _can_be_fused(layer: keras.layers.Layer) -> bool:
    if type(layer) is not keras.layers.BatchNormalization:
        return False
    config = layer.get_config()
    return (
        not config.get("renorm", False)
        and not config.get("synchronized", False)
        and layer.compute_dtype == "float32"
        and layer.input.shape is not None
        and len(layer.input.shape) == 4
        and config["axis"] in (-1, 3)
    )


def _output_layers(model: keras.Model) -> set[int]:
    """Identities of the layers that make a model's outputs, inside nested models too."""
    names = (
        {model.layers[-1].name} if isinstance(model, keras.Sequential) else set(model.output_names)
    )
    found = set()
    for layer in model.layers:
        if layer.name in names:
            found |= _output_layers(layer) if isinstance(layer, keras.Model) else {id(layer)}
    return found


def _is_plain_float32(layer: keras.layers.Layer) -> bool:
    """Whether a layer is Keras's own and computes in float32, as nobody asked otherwise."""
    own = type(layer).__module__.partition(".")[0] == "keras"
    return own and layer.dtype_policy.name == "float32"


def _draws_random_numbers(config: dict[str, Any]) -> bool:
    return "seed" in config
