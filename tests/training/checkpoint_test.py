from __future__ import annotations

import dataclasses
import pathlib

import keras
import numpy as np
import pytest

from cprune_tf.config import FitConfig
from cprune_tf.models import vgg_small
from cprune_tf.storage.files import StorageError
from cprune_tf.training import fit
from tests.strategies.kills import Killed

_CONFIG = FitConfig(
    epochs=3, learning_rate=0.02, schedule="cosine", max_steps_per_epoch=4, distill=0.5
)


def _model(dropout: bool = False) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = vgg_small(num_classes=10)
    if not dropout:
        return model
    x = keras.layers.Dropout(0.5, name="own")(model.layers[-2].output)
    return keras.Model(model.inputs, keras.layers.Dense(10)(x))


def _killed_after(steps: int):
    def on_step(done: int, total: int, loss: float) -> None:
        if done == steps:
            raise Killed

    return on_step


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_killed_training_ends_with_the_same_weights(small_data, tmp_path, ema):
    """Momentum, schedule, averages, dropout and the order of images go on where they were."""
    config = dataclasses.replace(_CONFIG, ema=ema)
    path = tmp_path / "long.npz"
    whole, killed = _model(dropout=True), _model(dropout=True)
    teacher = _model()
    fit(whole, small_data, config, seed=1, teacher=teacher)
    with pytest.raises(Killed):
        fit(
            killed, small_data, config, seed=1, teacher=teacher, checkpoint=path,
            on_step=_killed_after(10),
        )  # fmt: skip
    again, steps = _model(dropout=True), []
    result = fit(
        again, small_data, config, seed=1, teacher=teacher, checkpoint=path,
        on_step=lambda done, total, loss: steps.append(done),
    )  # fmt: skip
    assert steps == [9, 10, 11, 12]
    assert [epoch.epoch for epoch in result.epochs] == [1, 2, 3] and not result.stopped
    for one, two in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    # The file outlives the training, for a run that is killed before it notes the result.
    finished, steps = _model(dropout=True), []
    fit(
        finished, small_data, config, seed=1, teacher=teacher, checkpoint=path,
        on_step=lambda done, total, loss: steps.append(done),
    )  # fmt: skip
    assert not steps
    np.testing.assert_array_equal(finished.get_weights()[0], whole.get_weights()[0])


def _steps(model: keras.Model, data, path: pathlib.Path, config=_CONFIG, seed=1, teacher=None):
    steps = []
    fit(
        model, data, config, seed=seed, teacher=teacher or _model(), checkpoint=path,
        on_step=lambda done, total, loss: steps.append(done),
    )  # fmt: skip
    return steps


def test_another_training_starts_from_its_beginning(small_data, tmp_path):
    path = tmp_path / "short.npz"
    assert len(_steps(_model(), small_data, path)) == 12
    assert not _steps(_model(), small_data, path)
    assert len(_steps(_model(), small_data, path, seed=2)) == 12
    slower = dataclasses.replace(_CONFIG, learning_rate=0.01)
    assert len(_steps(_model(), small_data, path, config=slower)) == 12
    other = _model()
    other.layers[1].set_weights([w + 0.01 for w in other.layers[1].get_weights()])
    assert len(_steps(other, small_data, path, config=slower)) == 12
    teacher = _model()
    teacher.layers[1].set_weights([w + 0.01 for w in teacher.layers[1].get_weights()])
    assert len(_steps(_model(), small_data, path, teacher=teacher)) == 12
    path.write_bytes(path.read_bytes()[:1000])
    assert len(_steps(_model(), small_data, path)) == 12


def test_a_checkpoint_that_cannot_be_written_is_one_clear_error(small_data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        _steps(_model(), small_data, tmp_path / "file" / "short.npz")
