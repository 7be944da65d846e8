"""The child process: builds the model in Keras 2, trains it with TFMOT and writes its weights.

Run as `python -m cprune_tf.baselines.tfmot.child FOLDER`, with the batches on standard input. It
imports TensorFlow with Keras 2 (`TF_USE_LEGACY_KERAS=1`), so nothing that needs Keras 3.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from cprune_tf.baselines.tfmot import job as jobs

# How far outputs may differ from Keras 3's, relative to the largest value where that is above 1.
_TOLERANCE = 1e-4
# The layers whose kernels TFMOT prunes.
_PRUNED = (tf_keras.layers.Conv2D, tf_keras.layers.SeparableConv2D, tf_keras.layers.Dense)
# What keras.layers.Conv2D includes by inheritance, and TFMOT leaves alone.
_NOT_PRUNED = (tf_keras.layers.DepthwiseConv2D, tf_keras.layers.Conv2DTranspose)


class RefusedError(Exception):
    """The model cannot be pruned; the message is a sentence for the user."""


def main(folder: pathlib.Path) -> None:
    """Does the job in a folder."""
    fields = json.loads((folder / jobs.JOB).read_text(encoding="utf-8"))
    job, description = jobs.TrainingJob(**fields["job"]), fields["model"]
    tf_keras.utils.set_random_seed(job.seed)
    model, layers = build(description)
    weights = jobs.read_weights(folder / jobs.WEIGHTS, len(layers))
    for layer, arrays in zip(layers, weights, strict=True):
        layer.set_weights(arrays)
    with np.load(folder / jobs.PROBES) as probes:
        compare(model, layers, description["layers"], dict(probes))
    if not job.num_steps:
        return
    trained = prune(model, job, np.load(folder / jobs.RATES), tuple(description["input_shape"]))
    jobs.write_weights(
        folder / jobs.TRAINED, [trained.get_layer(layer.name).get_weights() for layer in layers]
    )


def build(description: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """Builds a model from a `ModelDescription`'s fields.

    Returns:
        The model, and its layers in the order of the description.
    """
    layers = [
        # Numbers, since Keras 3 allows names that TensorFlow's scopes do not.
        getattr(tf_keras.layers, layer["kind"])(
            **{name: _argument(value) for name, value in layer["arguments"].items()},
            name=f"layer_{number}",
            trainable=layer["trainable"],
        )
        for number, layer in enumerate(description["layers"])
    ]
    image = tf_keras.Input(description["input_shape"])
    tensors = [image]
    for call in description["calls"]:
        inputs = [tensors[number] for number in call["inputs"]]
        tensors.append(layers[call["layer"]](inputs if call["as_list"] else inputs[0]))
    return tf_keras.Model(image, tensors[description["output"]]), layers


def _argument(value: Any) -> Any:
    if isinstance(value, Mapping) and "class_name" in value:
        return tf_keras.regularizers.deserialize(value)
    return value


def compare(
    model: Any, layers: Sequence[Any], described: Sequence[Mapping[str, Any]], probes: Any
) -> None:
    """Refuses a model whose outputs are not those of Keras 3.

    Args:
        model: The rebuilt model.
        layers: Its layers, in the order of the description.
        described: Their descriptions.
        probes: "images", "output", and the outputs of layers that are called once, by "layer/I".

    Raises:
        RefusedError: Names the first layer whose output differs.
    """
    images = probes.pop("images")
    keys = sorted((key for key in probes if key != "output"), key=lambda key: int(key[6:]))
    outputs = [layers[int(key[6:])].output for key in keys]
    inner = tf_keras.Model(model.input, [*outputs, model.output])
    results = inner(images, training=False)
    for key, result in zip([*keys, "output"], results, strict=True):
        expected = probes[key]
        error = float(np.max(np.abs(result.numpy() - expected)))
        allowed = _TOLERANCE * max(1.0, float(np.max(np.abs(expected))))
        if not error <= allowed:
            where = "the model" if key == "output" else f"layer {described[int(key[6:])]['name']!r}"
            raise RefusedError(
                f"TFMOT cannot prune this model: {where} computes something else in Keras 2 "
                f"(outputs differ by {error:.2g}; at most {allowed:.2g} is expected)."
            )


def prune(
    model: Any, job: jobs.TrainingJob, rates: jobs.Array, input_shape: tuple[int, ...]
) -> Any:
    """Trains a model with TFMOT on the batches from standard input.

    Args:
        model: The rebuilt model; the result shares no weights with it.
        job: How.
        rates: The learning rate of each step, [num_steps].
        input_shape: (height, width, channels).

    Returns:
        The model with zeros among its weights, without TFMOT's wrappers.
    """
    wrapped = tf_keras.models.clone_model(model, clone_function=lambda layer: _wrap(layer, job))
    # Copies by layer: a wrapper has masks among its weights.
    for layer, copy in zip(model.layers, wrapped.layers, strict=True):
        getattr(copy, "layer", copy).set_weights(layer.get_weights())
    optimizer = tf_keras.optimizers.SGD(
        float(rates[0]), momentum=job.momentum, weight_decay=job.weight_decay or None
    )
    if job.weight_decay:
        kept = [variable for variable in wrapped.trainable_variables if len(variable.shape) < 2]
        optimizer.exclude_from_weight_decay(var_list=kept)
    loss = tf_keras.losses.CategoricalCrossentropy(
        from_logits=not job.gives_probabilities, label_smoothing=job.label_smoothing
    )
    wrapped.compile(optimizer, loss)
    wrapped.fit(
        _dataset(job, input_shape),
        epochs=1,
        steps_per_epoch=job.num_steps,
        verbose=0,
        callbacks=[_Rates(rates), tfmot.sparsity.keras.UpdatePruningStep()],
    )
    return tfmot.sparsity.keras.strip_pruning(wrapped)


def _wrap(layer: Any, job: jobs.TrainingJob) -> Any:
    copy = layer.__class__.from_config(layer.get_config())
    if not isinstance(layer, _PRUNED) or isinstance(layer, _NOT_PRUNED):
        return copy
    if job.pattern == "2:4":
        return tfmot.sparsity.keras.prune_low_magnitude(copy, sparsity_m_by_n=(2, 4))
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0, job.sparsity, begin_step=0, end_step=job.end_step, frequency=job.frequency
    )
    return tfmot.sparsity.keras.prune_low_magnitude(copy, schedule)


def _dataset(job: jobs.TrainingJob, input_shape: tuple[int, ...]) -> tf.data.Dataset:
    def batches() -> Iterator[tuple[jobs.Array, jobs.Array]]:
        for _ in range(job.num_steps):
            images, labels = jobs.read_batch(sys.stdin.buffer, input_shape)
            yield images, np.eye(job.num_classes, dtype=np.float32)[labels]

    return tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            tf.TensorSpec((None, *input_shape), tf.float32),
            tf.TensorSpec((None, job.num_classes), tf.float32),
        ),
    )


class _Rates(tf_keras.callbacks.Callback):
    """Sets the learning rate of each step.

    Args:
        rates: [num_steps].
    """

    def __init__(self, rates: jobs.Array) -> None:
        super().__init__()
        self._rates = rates

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Sets the rate of the step that begins."""
        self.model.optimizer.learning_rate.assign(float(self._rates[batch]))


if __name__ == "__main__":
    try:
        main(pathlib.Path(sys.argv[1]))
    except RefusedError as refused:
        print(refused, file=sys.stderr)
        sys.exit(jobs.REFUSED)
