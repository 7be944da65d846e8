"""A whole run of a model with names that no file, scope, page or figure takes as they are."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import rich.console
from keras import layers

import cprune_tf
from cprune_tf.front import export_point
from cprune_tf.report import terminal
from tests.pipeline import tiny_config

_IMAGE, _KIND, _SIZE = 'the "image" & [bold]é', "kind <b> & größe [red]", "$size$ [red]: 100 %"
# The first two are the same without what TensorFlow does not take.
_LAYERS = ("conv 1", "conv&1", "3x3 層 {0}", "long " * 60, "a:b\\c", "_'%s")


def _model():
    image = x = keras.Input((16, 16, 3), name=_IMAGE)
    for name in _LAYERS:
        x = layers.Conv2D(8, 3, padding="same", activation="relu", name=name)(x)
    x = layers.GlobalAveragePooling2D(name=" ")(x)
    kind = layers.Dense(3, activation="softmax", name=_KIND)(x)
    model = keras.Model(image, [kind, layers.Dense(1, name=_SIZE)(x)], name="my & <model> [red] ü")
    losses = {_KIND: "sparse_categorical_crossentropy", _SIZE: "mse"}
    model.compile("adam", losses, metrics={_KIND: ["accuracy"], _SIZE: ["mae"]})
    return model


def _data():
    images = np.random.default_rng(0).random((96, 16, 16, 3), np.float32)
    labels = {_KIND: images.mean((1, 2)).argmax(-1), _SIZE: images.mean((1, 2, 3))[:, None]}

    def part(start, end):
        inputs = {_IMAGE: images[start:end]}
        return inputs, {name: values[start:end] for name, values in labels.items()}

    return {"train_data": part(0, 64), "validation_data": part(64, 96)}


def _prune(runtime):
    config = tiny_config.get_config()
    config.dry_run = runtime == "tvm"
    config.runtime = runtime
    config.strategy.name = "uniform"
    config.strategy.max_iterations = 1
    config.strategy.metric = f"{_KIND}_accuracy"
    config.measure.max_time_sec = 0.05
    for name in ("trials_per_task", "trials_per_accepted_task", "final_trials_per_task"):
        setattr(config.tuning, name, 2)
    settings = config.to_dict() | {"protect": (_LAYERS[0],)}
    console = rich.console.Console(file=io.StringIO(), width=100)
    return cprune_tf.prune(_model(), config=settings, console=console, **_data())


@pytest.mark.parametrize("runtime", ["litert", pytest.param("tvm", marks=pytest.mark.slow)])
def test_any_names_go_through_a_run_and_come_out_as_they_were(tmp_path, runtime):
    result = _prune(runtime)
    original = _model()
    assert [step["decision"] for step in result.history] == ["accepted"]
    assert all(check.max_relative_error < 1e-3 for check in result.report.cross_check.checks)
    removed = set(result.history[0]["removed"])
    assert removed and removed <= set(_LAYERS[1:])
    final = keras.models.load_model(result.workdir / "final.keras")
    for model in (result.model, final):
        assert model.name == original.name and model.output_names == [_KIND, _SIZE]
        assert [layer.name for layer in model.layers] == [one.name for one in original.layers]
    assert final.count_params() < original.count_params()

    page = (result.workdir / "report.html").read_text()
    assert "kind &lt;b&gt; &amp; größe [red]" in page and _KIND not in page
    console = rich.console.Console(file=io.StringIO(), width=1000)
    console.print(terminal.render(result.report))
    shown = console.file.getvalue()
    assert original.name in shown and f"{_KIND} accuracy" in shown

    written = export_point(result.workdir, 1, tmp_path / "point")
    assert "model.tflite" in written
    result.save(tmp_path / "saved")
    (described,) = json.loads((tmp_path / "saved" / "deploy" / "metadata.json").read_text())[
        "inputs"
    ]
    assert described["name"] == _IMAGE
    image = _data()["validation_data"][0][_IMAGE][:1]
    np.save(tmp_path / "image.npy", image)
    script = tmp_path / "saved" / "deploy" / "run.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "image.npy"], capture_output=True, text=True, check=True
    )
    for name, output in zip(final.output_names, final(image), strict=True):
        _, found, printed = done.stdout.partition(f"{name}, {'x'.join(map(str, output.shape))}:")
        assert found
        values = np.array(printed[: printed.index("]]")].strip(" [\n").split(), np.float32)
        np.testing.assert_allclose(values, np.ravel(output), atol=1e-5)
