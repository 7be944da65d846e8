"""Trainings on a Ray cluster do what they do in this process; needs the package ray."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from cprune_tf import api
from cprune_tf.config import ConfigError, FitConfig, PruneConfig, TrainingConfig
from cprune_tf.data import ImageData, from_datasets
from cprune_tf.runs import events
from cprune_tf.strategies.netadapt import NetAdapt
from cprune_tf.training import TrainingError
from cprune_tf.training.cluster import TrainingCluster
from cprune_tf.training.hooks import Trainer
from tests.strategies import benches
from tests.training.replica_training import small_data, small_model

_FIT = FitConfig(epochs=2, learning_rate=0.05, distill=0.5)


def _deadly(folder: pathlib.Path, num_deaths: int) -> ImageData:
    """Data whose training batches kill their process the first few times."""
    data = small_data()
    batches = data.train_dataset

    def dataset(seed: int) -> tf.data.Dataset:
        died = len(list(folder.iterdir()))
        if died < num_deaths:
            (folder / str(died)).touch()
            os._exit(1)
        return batches(seed)

    return dataclasses.replace(data, train_dataset=dataset)


def _trainer(**fields) -> Trainer:
    config = PruneConfig(training=TrainingConfig(short_term=dataclasses.replace(_FIT, **fields)))
    return Trainer(config, small_data(), small_model(synchronized=False, seed=9))


def _models() -> list[keras.Model]:
    return [small_model(synchronized=False, dropout=0.3, seed=seed) for seed in range(2)]


def _colours() -> ImageData:
    """Images for the models of `benches`."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 64).astype(np.int32)
    images = random.normal(size=(64, 8, 8, 3)).astype(np.float32)
    images[np.arange(64), :, :, labels % 3] += labels[:, None, None]
    return from_datasets((images, labels), (images, labels), batch_size=16)


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    with TrainingCluster("local") as connected:
        yield connected


@pytest.mark.slow
def test_netadapt_decides_on_the_cluster_as_in_this_process(cluster, tmp_path):
    trainer = dataclasses.replace(_trainer(distill=0.0), data=_colours())
    shared = cluster.share(trainer)
    decisions = []
    for train_all in (None, shared.short_term_train_all):
        used = benches.hooks(trainer.short_term_train, trainer.evaluate)
        used = dataclasses.replace(used, short_term_train_all=train_all)
        workdir = tmp_path / str(len(decisions))
        wanted = {"name": "netadapt", "max_iterations": 2}
        with benches.bench(workdir, wanted, used) as bench:
            benches.prune(bench, NetAdapt)
            judged = bench.run.journal.events(events.CandidateJudged)
            decisions.append([(one.key, dict(one.removed), one.accuracy) for one in judged])
    assert len(decisions[0]) == 2 and decisions[0] == decisions[1]


@pytest.mark.slow
def test_trainings_in_workers_give_the_weights_of_those_in_this_process(cluster):
    here, there = _models(), _models()
    trainer = _trainer()
    assert sorted(cluster.share(trainer).short_term_train_all(there)) == [0, 1]
    for one, two in zip(here, there, strict=True):
        trainer.short_term_train(one)
        for expected, found in zip(one.get_weights(), two.get_weights(), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_until_it_dies_again_and_again(cluster, tmp_path):
    shared = cluster.share(dataclasses.replace(_trainer(), data=_deadly(tmp_path, 1)))
    assert list(shared.short_term_train_all(_models()[:1])) == [0]
    shared = cluster.share(dataclasses.replace(_trainer(), data=_deadly(tmp_path, 9)))
    with pytest.raises(TrainingError, match="the Ray cluster lost a training 3 times"):
        list(shared.short_term_train_all(_models()[:1]))
    assert len(list(tmp_path.iterdir())) == 4


def test_an_error_of_a_training_is_raised_as_in_this_process(cluster):
    shared = cluster.share(_trainer(learning_rate=1e30))
    with pytest.raises(TrainingError, match=r"^the loss became"):
        list(shared.short_term_train_all(_models()))


def test_arrays_travel_and_pipelines_are_refused(cluster):
    images, labels = small_data().test_images, small_data().test_labels
    arrays = from_datasets((images, labels), (images, labels), batch_size=16)
    shared = cluster.share(dataclasses.replace(_trainer(), data=arrays))
    assert list(shared.short_term_train_all(_models()[:1])) == [0]
    pipeline = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    data = from_datasets(pipeline, (images, labels))
    with pytest.raises(TrainingError, match="cannot be sent to the workers"):
        cluster.share(dataclasses.replace(_trainer(), data=data))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://127.0.0.1:10001"])
def test_a_cluster_that_does_not_answer_is_one_error_at_once(address):
    ray = pytest.importorskip("ray")
    ray.shutdown()
    with pytest.raises(TrainingError, match="no Ray cluster answers there"):
        TrainingCluster(address)


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TrainingError, match=r"pip install 'cprune_tf\[ray\]'"):
        TrainingCluster("local")


def test_a_training_of_the_callers_own_stays_here():
    with pytest.raises(ConfigError, match=r"config\.ray_address is 'local'; expected ''"):
        api.prune(
            small_model(synchronized=False),
            config={"ray_address": "local", "strategy": {"name": "netadapt"}},
            short_term_train=lambda model: None,
        )
