"""Training one model on several devices or machines at once, by `tf.distribute`.

Each step's batch is split over the replicas, one a device. A replica's loss and gradients count as
much as its share of the batch's images, so their sum is that of the whole batch. A replica
normalises its part by the part's own statistics, as always in TensorFlow (Keras's
`BatchNormalization(synchronized=True)` uses the whole batch's). The moving statistics, which Keras
would leave to drift apart, are averaged over the replicas after each step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from cprune_tf.training.errors import TrainingError

_EXAMPLE = (
    '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
# What TensorFlow raises in a worker when another one leaves.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


def open_strategy(name: str) -> tf.distribute.Strategy | None:
    """Opens what `config.training.distribute` names.

    With "multi_worker" it must be called before TensorFlow computes anything, and it waits for all
    workers to come.

    Args:
        name: "", "mirrored" or "multi_worker".

    Returns:
        The strategy; None for "".

    Raises:
        TrainingError: There is only one device to mirror, or TF_CONFIG does not describe workers.
    """
    if name == "multi_worker":
        _check_cluster(os.environ.get("TF_CONFIG", ""))
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_several_devices())
    return None


def is_multi_worker(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether other processes train, too."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether this process is the one that reports and writes: the first worker, or the chief."""
    if strategy is None or not is_multi_worker(strategy):
        return True
    resolver = strategy.cluster_resolver
    if "chief" in resolver.cluster_spec().jobs:
        return bool(resolver.task_type == "chief")
    return bool(resolver.task_id == 0)


def check_same_training(strategy: tf.distribute.Strategy, name: str) -> None:
    """Refuses workers that would train different things, before they wait for each other for ever.

    Args:
        strategy: Of several workers.
        name: Depends on all that the training depends on.

    Raises:
        TrainingError: In each worker, if their names differ.
    """
    number = tf.constant([int(hashlib.sha256(name.encode()).hexdigest()[:15], 16)], tf.int64)

    @tf.function
    def gather() -> tf.Tensor:
        return strategy.run(lambda: tf.distribute.get_replica_context().all_gather(number, axis=0))

    numbers = set(strategy.experimental_local_results(gather())[0].numpy().tolist())
    if len(numbers) > 1:
        raise TrainingError(
            f"the workers began {len(numbers)} different trainings; expected the same model, "
            "config, seed and batches in each. Start all of them with the same command and files, "
            "and give a tf.data pipeline of your own fixed seeds."
        )


@contextlib.contextmanager
def lost_workers_explained(strategy: tf.distribute.Strategy | None) -> Iterator[None]:
    """Raises TrainingError in place of what TensorFlow raises when another worker is gone."""
    try:
        yield
    except _LOST as error:
        if not is_multi_worker(strategy):
            raise
        raise TrainingError(
            f"another worker left the training ({type(error).__name__}); expected all workers of "
            "TF_CONFIG until the end. Look at the output of the others, and start all again."
        ) from error


def run_in_replicas(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    compute: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Sequence[tf.Tensor]],
    images: tf.Tensor,
    labels: tf.Tensor,
) -> Sequence[tf.Tensor]:
    """Runs a function on a part of a batch in each replica.

    Args:
        strategy: Whose replicas.
        model: Its statistics become the mean of the replicas', weighted by their images.
        compute: A function of the part's images, its labels and its share of the batch, float32 []
            (all shares sum to 1), that gives scalars.
        images: The whole batch, the same in each worker.
        labels: Of the whole batch.

    Returns:
        The scalars' means over the replicas, weighted by shares.
    """
    statistics = [
        weight for weight in model.non_trainable_weights if weight.dtype.startswith("float")
    ]

    def replica() -> Sequence[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        # Only its part travels to a device.
        with tf.device("/cpu:0"):
            part = _part_of(context, images, labels)
        scalars = compute(*part)
        share = part[-1]
        values = [*scalars, *(weight.value for weight in statistics)]
        means = context.all_reduce(tf.distribute.ReduceOp.SUM, [share * v for v in values])
        for weight, mean in zip(statistics, means[len(scalars) :], strict=True):
            weight.assign(mean)
        return means[: len(scalars)]

    results = strategy.run(replica)
    return [strategy.experimental_local_results(result)[0] for result in results]


def _part_of(
    context: tf.distribute.ReplicaContext, images: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A replica's images and labels, and which part (0..1) of the batch they are."""
    index, count = context.replica_id_in_sync_group, context.num_replicas_in_sync
    size = tf.shape(labels)[0]
    # A last batch may be smaller than the number of replicas. An image that another replica has,
    # too, and that counts nothing, keeps means over no images out of the sums.
    first = tf.minimum(index, size - 1)
    num_images = (size - index + count - 1) // count
    return images[first::count], labels[first::count], tf.cast(num_images / size, tf.float32)


def _several_devices() -> list[str]:
    for kind in ("GPU", "CPU"):
        devices = tf.config.list_logical_devices(kind)
        if len(devices) > 1:
            return [device.name for device in devices]
        if devices:
            break
    raise TrainingError(
        f"config.training.distribute is 'mirrored', and TensorFlow sees {len(devices)} {kind}; "
        "expected two or more GPUs. Leave distribute empty: one device trains without it."
    )


def _check_cluster(text: str) -> None:
    if not _describes_workers(text):
        raise TrainingError(
            "config.training.distribute is 'multi_worker', and the environment variable TF_CONFIG "
            f"is {text!r}; expected all workers (two or more) and which of them this is, e.g. "
            f"{_EXAMPLE}."
        )


def _describes_workers(text: str) -> bool:
    try:
        settings = json.loads(text)
        cluster, task = settings["cluster"], settings["task"]
        several = len(cluster.get("chief", ())) + len(cluster["worker"]) > 1
        is_one = task["type"] in ("chief", "worker")
        return several and is_one and 0 <= int(task["index"]) < len(cluster[task["type"]])
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
