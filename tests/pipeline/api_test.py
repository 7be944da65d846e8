"""The Python API with real parts: a small model, real tuning, real training."""

from __future__ import annotations

import functools
import io
import subprocess
import sys

import keras
import numpy as np
import pytest
import rich.console
import tensorflow as tf

import cprune_tf
from cprune_tf.data import load
from cprune_tf.devices import open_device
from tests.pipeline import tiny_config
from tests.pipeline.bare_site import bare_site


@pytest.fixture(scope="module")
def images():
    return load(cprune_tf.config.DataConfig(max_train=512, max_test=200, augment=False))


@pytest.fixture(scope="module")
def pipelines(images):
    """The same images as a training pipeline would hand them over."""
    test = tf.data.Dataset.from_tensor_slices((images.test_images, images.test_labels)).batch(50)
    return images.train_dataset(0), test


def _config(**strategy):
    config = tiny_config.get_config()
    config.strategy.update(strategy)
    return config.to_dict()


def _quiet():
    return rich.console.Console(file=io.StringIO(), width=100)


@pytest.fixture(scope="module")
def result(tiny_model_path, pipelines, tmp_path_factory):
    train, test = pipelines
    return cprune_tf.prune(
        keras.models.load_model(tiny_model_path),
        train_data=train,
        validation_data=test,
        config=_config(max_iterations=3),
        workdir=tmp_path_factory.mktemp("api") / "run",
        console=_quiet(),
    )


def test_the_result_is_smaller_and_was_decided_step_by_step(result, tiny_model_path):
    original = keras.models.load_model(tiny_model_path)
    accepted = [step for step in result.history if step["decision"] == "accepted"]
    assert 1 <= len(result.history) <= 3
    assert accepted, [step["reason"] for step in result.history]
    assert result.model.count_params() < original.count_params()
    assert result.model.name == original.name
    # What was removed is what is missing.
    removed: dict[str, int] = {}
    for step in accepted:
        for group, count in step["removed"].items():
            removed[group] = removed.get(group, 0) + count
    for group, count in removed.items():
        before, after = original.get_layer(group), result.model.get_layer(group)
        assert before.filters - after.filters == count
    assert result.model.get_layer("classifier").units == 10


def test_every_candidate_that_was_refused_says_why(result):
    for step in result.history:
        assert step["reason"]
        assert step["price_ms"] > 0
        if step["decision"] == "refused_latency":
            assert step["accuracy"] is None


def test_save_copies_everything_and_refuses_to_overwrite(result, tmp_path):
    saved = result.save(tmp_path / "out")
    model = keras.models.load_model(saved / "final.keras")
    x = np.random.default_rng(0).random((2, 28, 28, 1)).astype("float32")
    np.testing.assert_array_equal(model(x).numpy(), result.model(x).numpy())
    with pytest.raises(FileExistsError, match=r"overwrite=True"):
        result.save(tmp_path / "out")
    result.save(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize(
    ("runtime", "distribution"), [("tvm", "apache-tvm"), ("litert", "ai-edge-litert")]
)
def test_the_deploy_folder_runs_with_one_package(result, tmp_path, runtime, distribution):
    """As on a device where nothing else was installed: no Keras, TensorFlow or cprune_tf."""
    saved = result.save(tmp_path / "out")
    x = np.random.default_rng(1).random((1, 28, 28, 1)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    site = bare_site(tmp_path / "site", distribution, "numpy")
    script = (
        f"import sys; sys.path.append({str(site)!r})\n"
        "import runpy, numpy as np; np.set_printoptions(precision=9)\n"
        f"sys.argv = ['run.py', {str(tmp_path / 'x.npy')!r}, {runtime!r}]\n"
        f"runpy.run_path({str(saved / 'deploy' / 'run.py')!r}, run_name='__main__')\n"
        "assert not {'cprune_tf', 'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = np.array(done.stdout.replace("[", " ").replace("]", " ").split(), "float32")
    np.testing.assert_allclose(printed, result.model(x).numpy()[0], atol=1e-5)


def test_the_callers_own_functions_decide(tiny_model_path, pipelines, tmp_path):
    """With an accuracy that never recovers, nothing may be accepted, however fast it is."""
    calls = {"short": 0, "long": 0}
    sizes = []

    def short(model):
        calls["short"] += 1

    def long(model):
        calls["long"] += 1

    def evaluate(model):
        sizes.append(model.count_params())
        return 0.9 if model.count_params() == sizes[0] else 0.1

    with open_device("local") as device:
        result = cprune_tf.prune(
            str(tiny_model_path),
            validation_data=pipelines[1],
            device=device,
            config={**_config(name="uniform", max_accuracy_drop=0.1), "runtime": "litert"},
            workdir=tmp_path / "run",
            short_term_train=short,
            long_term_train=long,
            evaluate=evaluate,
            console=_quiet(),
        )
        assert device.info().num_cores >= 1  # a device that was given stays open
    assert calls["short"] == 1
    assert calls["long"] == 0  # nothing was pruned, so there is nothing to train
    assert [step["decision"] for step in result.history] == ["refused_accuracy"]
    assert result.model.count_params() == sizes[0]


def test_a_compiled_model_is_trained_as_it_was_compiled(tiny_model_path, pipelines, tmp_path):
    class Counting(keras.losses.SparseCategoricalCrossentropy):
        batches = 0

        def call(self, y_true, y_pred):
            Counting.batches += 1
            return super().call(y_true, y_pred)

    model = keras.models.load_model(tiny_model_path)
    model.compile(keras.optimizers.SGD(1e-3), Counting(), run_eagerly=True)
    run = functools.partial(
        cprune_tf.prune,
        train_data=pipelines[0].take(2),
        validation_data=pipelines[1],
        config={**_config(name="uniform", max_iterations=1), "runtime": "litert"},
        workdir=tmp_path / "run",
        console=_quiet(),
    )
    result = run(model)
    assert [step["accuracy"] is not None for step in result.history] == [True]
    assert Counting.batches >= 2
    # Neither the file nor the resumed run needs the loss from the file.
    final = keras.models.load_model(tmp_path / "run" / "final.keras")
    assert not final.compiled
    again = run(model, resume=True).model
    assert isinstance(again.loss, Counting)
    for weight, value in zip(final.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, value)


def test_max_test_limits_given_data(tiny_model_path, pipelines, tmp_path):
    """Of which the caller's own function need not know."""
    with pytest.raises(ValueError, match=r"required_accuracy is 99.00%"):
        cprune_tf.prune(
            str(tiny_model_path),
            train_data=pipelines[0],
            validation_data=pipelines[1],
            config={
                "strategy": {"required_accuracy": 0.99},
                "data": {"max_test": 60},
            },
            workdir=tmp_path / "run",
            console=_quiet(),
        )
    journal = (tmp_path / "run" / "journal.jsonl").read_text()
    described = next(line for line in journal.splitlines() if '"data"' in line)
    assert '"num_test":60' in described.replace(" ", "")


def _multi_output():
    x = keras.Input((8, 8, 1))
    y = keras.layers.Conv2D(4, 3)(x)
    return keras.Model(x, [y, y])


def _untrained():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def _compiled_for_one_hot():
    model = _untrained()
    model.compile("sgd", "categorical_crossentropy")
    return model


class _Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"model": _Subclassed()}, "functional or Sequential"),
        ({"model": _multi_output()}, "one image"),
        ({"device": "toaster"}, "toaster"),
        ({"config": {"measure": {"num_threads": 4096}}}, "num_threads is 4096"),
        (
            {"config": {"measure": {"further_threads": (1,)}}},
            r"further_threads is \(1,\); expected",
        ),
        ({"config": {"protect": ["stem", "wide", "last"]}}, "could be pruned"),
        (
            {
                "short_term_train": lambda model: None,
                "config": {"strategy": {"latency_budget": {"soft_start": {"epochs": 1}}}},
            },
            r"soft_start\.epochs is 1; expected 0",
        ),
        ({"config": {"stratgey": {}}}, "Did you mean config.strategy"),
        ({"validation_data": None}, "without validation_data"),
        ({"model": _untrained()}, "about what guessing gives"),
        ({"model": _compiled_for_one_hot()}, "cannot be computed from labels"),
        (
            {"config": {"strategy": {"gate_confidence": 0.9}}, "evaluate": lambda model: 0.9},
            "gate_confidence is 0.9, and evaluate is",
        ),
    ],
)
def test_what_cannot_work_is_refused(tiny_model_path, pipelines, tmp_path, arguments, expected):
    train, test = pipelines
    given = {
        "model": str(tiny_model_path),
        "train_data": train,
        "validation_data": test,
        "workdir": tmp_path / "run",
        "console": _quiet(),
        **arguments,
    }
    with pytest.raises(ValueError, match=expected):
        cprune_tf.prune(given.pop("model"), **given)
