"""Independent trainings side by side on a Ray cluster.

A worker gets the run's trainer (config, data and teacher), which Ray keeps once on each machine,
and a model. It trains as this process would: with the same seed, on the same batches, by the same
code, which must be installed on each machine. Only trainings go there. Whatever is measured on a
device would disturb what is measured beside it.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import keras
import numpy as np

from cprune_tf.errors import UserError
from cprune_tf.graph import any_names
from cprune_tf.training.errors import TrainingError
from cprune_tf.training.hooks import Trainer

# How often Ray starts a training again whose worker died.
_MAX_RETRIES = 2
# How long a cluster may take to answer.
_ANSWER_SEC = 10.0


class TrainingCluster:
    """A connection to a Ray cluster, closed at the end of a `with` block.

    A connection that the caller's program has already is used, and left open.

    Args:
        address: "HOST:PORT" of the cluster's head, "auto" for the one on this machine, or "local",
            which starts one in this machine for as long as the connection lasts.

    Raises:
        TrainingError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._ray = _import_ray(address)
        self._is_own = not self._ray.is_initialized()
        if self._is_own:
            self._connect()

    def __enter__(self) -> TrainingCluster:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_own:
            self._ray.shutdown()

    def share(self, trainer: Trainer) -> SharedTrainer:
        """Puts a trainer where all workers can read it.

        Args:
            trainer: Its display, logs and checkpoints stay behind, and each worker trains on one
                device.

        Raises:
            TrainingError: Its data cannot travel.
        """
        travelling = dataclasses.replace(
            trainer, on_step=None, log_dir=None, checkpoint_dir=None, replicas=None
        )
        try:
            reference = self._ray.put(travelling)
        # Pickling runs code of the caller's data, which may raise anything.
        except Exception as error:
            reason = _first_line(error)
            raise TrainingError(
                f"config.ray_address is {self._address!r}, and the training data "
                f"{trainer.data.name} cannot be sent to the workers ({reason}); expected arrays, "
                "a picklable keras.utils.PyDataset, or data that config.data names. A "
                "tf.data.Dataset stays in its process: pass one of these, or leave ray_address "
                "empty."
            ) from error
        return SharedTrainer(self._ray, reference)

    def _connect(self) -> None:
        # Ray would report the use of it to its makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            _check_answers(self._address)
            self._ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = _first_line(error)
            raise TrainingError(
                f"config.ray_address is {self._address!r}, and no Ray cluster answers there "
                f"({reason}); expected HOST:PORT of its head, 'auto', or 'local'. "
                "`ray start --head` starts one."
            ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class SharedTrainer:
    """A trainer that all workers of a cluster can read; made by `TrainingCluster.share`."""

    ray: Any
    reference: Any

    def short_term_train_all(self, models: Sequence[keras.Model]) -> Iterator[int]:
        """Trains models in place, as many at once as the cluster has processors (or GPUs).

        Args:
            models: What `Trainer.short_term_train` would be called with, one after the other.

        Yields:
            The position of each model when it is trained, in the order in which they end.

        Raises:
            TrainingError: A training fails, or its workers die again and again.
        """
        num_gpus = 1 if self.ray.cluster_resources().get("GPU") else 0
        remote = self.ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=_MAX_RETRIES)(_train)
        running = {remote.remote(self.reference, model): i for i, model in enumerate(models)}
        try:
            while running:
                (ended, *_), _ = self.ray.wait(list(running), num_returns=1)
                position = running.pop(ended)
                models[position].set_weights(self._result(ended))
                yield position
        finally:
            for reference in running:
                self.ray.cancel(reference, force=True)

    def _result(self, ended: Any) -> list[np.ndarray]:
        exceptions = self.ray.exceptions
        try:
            weights: list[np.ndarray] = self.ray.get(ended)
        except exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, UserError):
                raise cause from error
            raise TrainingError(
                f"a training on the Ray cluster failed ({type(cause).__name__}: "
                f"{_first_line(cause)}); expected the code and the files of this machine on each "
                "machine of the cluster."
            ) from error
        except exceptions.RayError as error:
            raise TrainingError(
                f"the Ray cluster lost a training {_MAX_RETRIES + 1} times "
                f"({type(error).__name__}); expected workers that live. Look at their memory and "
                "logs. --resume goes on, and trains nothing again that has ended."
            ) from error
        return weights


def _train(trainer: Trainer, model: keras.Model) -> list[np.ndarray]:
    """Runs in a worker."""
    with any_names():
        trainer.short_term_train(model)
    weights: list[np.ndarray] = model.get_weights()
    return weights


def _check_answers(address: str) -> None:
    """Raises OSError or ValueError unless something listens at HOST:PORT.

    Ray itself would wait for more than a minute, and then end the process.
    """
    if address in ("auto", "local"):
        return
    host, separator, port = address.rpartition(":")
    if not (host and separator and port.isdecimal()):
        raise ValueError("it is no HOST:PORT")
    with socket.create_connection((host, int(port)), timeout=_ANSWER_SEC):
        pass


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _import_ray(address: str) -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise TrainingError(
            f"config.ray_address is {address!r}, and the package ray cannot be imported ({error}); "
            "run `pip install 'cprune_tf[ray]'`."
        ) from error
