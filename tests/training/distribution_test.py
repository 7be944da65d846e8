"""Training in several replicas and workers does what training on one device does."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from cprune_tf.config import ConfigError, TrainingConfig
from cprune_tf.training import TrainingError, distribution

_ROOT = pathlib.Path(__file__).parents[2]


def _start(*command: str, **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(_ROOT), *sys.path])
    return subprocess.Popen(
        [sys.executable, *command], env={**os.environ, "PYTHONPATH": paths, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _start_workers(*commands: tuple[str, ...]) -> list[subprocess.Popen[str]]:
    addresses = []
    for _ in commands:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            addresses.append(f"127.0.0.1:{free.getsockname()[1]}")
    return [
        _start(*command, TF_CONFIG=_tf_config(addresses, index))
        for index, command in enumerate(commands)
    ]


def _tf_config(addresses: list[str], index: int) -> str:
    return json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )


def _outputs(workers: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    outputs = [worker.communicate(timeout=300) for worker in workers]
    return [(worker.returncode, *out) for worker, out in zip(workers, outputs, strict=True)]


def _training(kind: str, folder: pathlib.Path, *options: int) -> tuple[str, ...]:
    return ("-m", "tests.training.replica_training", kind, str(folder), *map(str, options))


def _largest_difference(folder: pathlib.Path, one: str, two: str) -> float:
    with np.load(folder / f"{one}.npz") as first, np.load(folder / f"{two}.npz") as second:
        assert first.files == second.files
        return max(float(np.abs(first[name] - second[name]).max()) for name in first.files)


def _train_in_two_replicas(what: str, folder: pathlib.Path) -> None:
    [(code, _, errors)] = _outputs([_start(*_training(what, folder))])
    assert not code, errors


def test_two_replicas_train_as_one_device_does(tmp_path):
    _train_in_two_replicas("whole_loss", tmp_path)
    # Batches, gradients, weight decay, penalties, teacher: all count as on one device.
    assert _largest_difference(tmp_path, "whole_loss_alone", "whole_loss_mirrored") < 1e-4


@pytest.mark.slow
def test_a_killed_training_in_two_replicas_ends_with_the_same_weights(tmp_path):
    _train_in_two_replicas("all_else", tmp_path)
    # Momentum, averages, dropout and statistics go on where they were.
    assert _largest_difference(tmp_path, "all_else_mirrored", "all_else_killed") == 0


@pytest.mark.slow
def test_two_workers_end_with_the_weights_of_one_process(tmp_path):
    for what in ("whole_loss", "all_else"):
        _train_in_two_replicas(what, tmp_path)
    command = _training("multi_worker", tmp_path)
    for code, _, errors in _outputs(_start_workers(command, command)):
        assert not code, errors
    assert _largest_difference(tmp_path, "whole_loss_0", "whole_loss_1") == 0
    assert _largest_difference(tmp_path, "whole_loss_0", "whole_loss_alone") < 1e-4
    assert _largest_difference(tmp_path, "all_else_0", "all_else_1") == 0
    assert _largest_difference(tmp_path, "all_else_0", "all_else_mirrored") < 1e-4


@pytest.mark.slow
def test_workers_that_differ_or_leave_end_all_with_the_reason(tmp_path):
    differing = (_training("multi_worker", tmp_path, seed) for seed in (1, 2))
    for code, _, errors in _outputs(_start_workers(*differing)):
        assert code == 1 and "the workers began 2 different trainings" in errors
    leaving = (_training("multi_worker", tmp_path, 1, last_step) for last_step in (0, 4))
    [(code, _, errors), _] = _outputs(_start_workers(*leaving))
    assert code == 1 and "another worker left the training" in errors


@pytest.mark.slow
def test_the_command_trains_with_two_workers_and_one_of_them_writes(tmp_path):
    command = (
        str(_ROOT / "tools" / "train.py"),
        f"--config={_ROOT / 'configs' / 'train_fashion_resnet8.py'}",
        f"--output={tmp_path / 'model.keras'}",
        "--config.data.max_train=128",
        "--config.data.max_test=100",
        "--config.data.batch_size=32",
        "--config.training.long_term.epochs=2",
        "--config.training.distribute=multi_worker",
    )
    chief, other = _outputs(_start_workers(command, command))
    assert not chief[0] and not other[0], (chief[2], other[2])
    assert "epoch   2/2" in chief[1] and "test top1" in chief[1]
    assert not other[1] and (tmp_path / "model.keras").exists()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", _tf_config(["a:1"], 0), _tf_config(["a:1", "b:1"], 2)],
)
def test_a_cluster_that_tf_config_does_not_describe_is_one_error(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(TrainingError, match="TF_CONFIG is"):
        distribution.open_strategy("multi_worker")


def test_one_device_is_not_mirrored():
    with pytest.raises(TrainingError, match=r"TensorFlow sees 1 .PU; expected two or more"):
        distribution.open_strategy("mirrored")


def test_a_pruning_run_is_one_process():
    config = TrainingConfig(distribute="multi_worker")
    config.validate()
    with pytest.raises(ConfigError, match="one process decides"):
        config.check_one_process()
    with pytest.raises(ConfigError, match="distribute is 'ring'; expected"):
        dataclasses.replace(config, distribute="ring").validate()
