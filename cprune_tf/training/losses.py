"""Losses: cross-entropy, and the distance to a teacher's softened outputs."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from cprune_tf.graph.heads import output_activations
from cprune_tf.training.errors import TrainingError

# Hinton, Vinyals and Dean (2015), section 2: soft targets carry most at a raised temperature.
_TEMPERATURE = 4.0
_SMALLEST_PROBABILITY = 1e-7


def gives_probabilities(model: keras.Model, images: np.ndarray) -> bool:
    """Tells whether a model ends in a softmax, by what comes out of it.

    However the softmax is written (activation, layer, raw operation, inside a nested model), its
    outputs are positive and sum to one, which logits of several images don't.

    Args:
        model: A classifier.
        images: [n, height, width, channels] float32, some real ones.

    Returns:
        True for probabilities, False for logits.

    Raises:
        TrainingError: When the outputs are not finite, or a sigmoid's.
    """
    outputs = model(images, training=False).numpy()
    if not np.isfinite(outputs).all():
        raise TrainingError(
            f"model {model.name!r} gives NaN or infinite outputs on real images; expected finite "
            "ones. Its weights are damaged, or the preprocessing (data.mean, data.std) is not its."
        )
    if "sigmoid" in output_activations(model):
        raise TrainingError(
            f"model {model.name!r} ends in a sigmoid; expected a softmax or logits over classes."
        )
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=-1), 1.0, atol=1e-3))


def as_logits(outputs: tf.Tensor, are_probabilities: bool) -> tf.Tensor:
    """Logits (up to a constant per image) from a model's outputs."""
    if not are_probabilities:
        return outputs
    return tf.math.log(tf.maximum(outputs, _SMALLEST_PROBABILITY))


def cross_entropy(
    labels: tf.Tensor, outputs: tf.Tensor, are_probabilities: bool, smoothing: float = 0.0
) -> tf.Tensor:
    """Mean cross-entropy.

    Args:
        labels: [batch] int32.
        outputs: [batch, num_classes] float32.
        are_probabilities: What `gives_probabilities` said of the model.
        smoothing: How much (0..1) of each label is spread evenly over all classes.

    Returns:
        A scalar.
    """
    if smoothing:
        smoothed = keras.losses.categorical_crossentropy(
            tf.one_hot(labels, outputs.shape[-1]),
            outputs,
            from_logits=not are_probabilities,
            label_smoothing=smoothing,
        )
        return tf.reduce_mean(smoothed)
    losses = keras.losses.sparse_categorical_crossentropy(
        labels, outputs, from_logits=not are_probabilities
    )
    return tf.reduce_mean(losses)


def distillation(student_logits: tf.Tensor, teacher_logits: tf.Tensor) -> tf.Tensor:
    """Mean divergence of the student's softened outputs from the teacher's.

    Args:
        student_logits: [batch, num_classes] float32.
        teacher_logits: [batch, num_classes] float32.

    Returns:
        A scalar, scaled so that its gradients are of the size of the cross-entropy's.
    """
    target = tf.nn.softmax(teacher_logits / _TEMPERATURE)
    log_target = tf.nn.log_softmax(teacher_logits / _TEMPERATURE)
    log_student = tf.nn.log_softmax(student_logits / _TEMPERATURE)
    divergence = tf.reduce_sum(target * (log_target - log_student), axis=-1)
    return tf.reduce_mean(divergence) * _TEMPERATURE**2


def distance(kind: str, outputs: tf.Tensor, teacher_outputs: tf.Tensor) -> tf.Tensor:
    """Mean distance of one output of any task from the teacher's.

    Args:
        kind: What the output gives, see `heads.Head`: the softened classes ("softmax", "logits")
            or the softened two sides of each unit ("sigmoid") are compared, of "values" the
            squares of the differences.
        outputs: [batch, ...] float32.
        teacher_outputs: The same.

    Returns:
        A scalar.
    """
    if kind == "values":
        return tf.reduce_mean(tf.square(outputs - teacher_outputs))
    if kind == "sigmoid":
        # Each unit tells two classes apart.
        both = (outputs, 1.0 - outputs), (teacher_outputs, 1.0 - teacher_outputs)
        pairs = [as_logits(tf.stack(sides, axis=-1), True) for sides in both]
    else:
        pairs = [as_logits(one, kind == "softmax") for one in (outputs, teacher_outputs)]
    return distillation(*pairs)
