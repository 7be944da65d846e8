from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import keras
import pytest

from cprune_tf.config import DataConfig
from cprune_tf.data import load
from cprune_tf.models import load_model
from cprune_tf.training import evaluate

_ROOT = pathlib.Path(__file__).parents[2]
_CONFIG = f"--config={_ROOT / 'configs' / 'train_fashion_resnet8.py'}"
_SMALL = (
    "--config.data.max_train=640",
    "--config.data.max_test=200",
    "--config.data.batch_size=32",
    "--config.training.long_term.epochs=2",
)


def _train(*flags: str, script: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs the command as a user does: absl flags belong to a process."""
    command = [str(_ROOT / "tools" / "train.py")] if script else ["-m", "cprune_tf.cli.train"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])}
    return subprocess.run(
        [sys.executable, *command, *flags], env=environment, capture_output=True, text=True
    )


def test_a_model_is_trained_saved_and_trained_on(tmp_path):
    output, log = tmp_path / "model.keras", tmp_path / "log"
    result = _train(_CONFIG, f"--output={output}", f"--tensorboard_dir={log}", *_SMALL)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("resnet8: ") and "640 training, 200 test images" in lines[0]
    assert [line.split()[1] for line in lines[1:3]] == ["1/2", "2/2"]
    accuracy = evaluate(load_model(output), load(DataConfig(max_test=200)))
    assert f"test top1 {accuracy:.2%}" in lines[-1]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["log", "model.keras"]
    assert list(log.iterdir())

    more = tmp_path / "more.keras"
    result = _train(
        _CONFIG, f"--output={more}", f"--config.model={output}", *_SMALL[:-1],
        "--config.training.long_term.epochs=1", script=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    first_losses = [float(line.split()[3]) for line in (lines[1], result.stdout.splitlines()[1])]
    assert first_losses[1] < first_losses[0]


def test_a_failed_training_leaves_the_old_file(tmp_path):
    output = tmp_path / "model.keras"
    output.write_bytes(b"precious")
    flags = (_CONFIG, f"--output={output}", *_SMALL)
    result = _train(*flags, "--config.training.long_term.learning_rate=1e9", "--overwrite")
    assert result.returncode == 2
    assert "error: the loss became" in result.stderr
    assert output.read_bytes() == b"precious"


_IN_HELP = ("--config:", "--output:", "--[no]overwrite:", "resnet8_fashion.keras")


@pytest.mark.parametrize("script", [True, False])
def test_help_shows_the_flags(script):
    result = _train("--help", script=script)
    assert all(text in result.stdout for text in _IN_HELP)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--config must have a value"),
        ((_CONFIG,), "--output must have a value"),
        (("--config=no_such.py", "--output=a.keras"), "config file 'no_such.py' does not exist"),
        ((_CONFIG, "--output=a.h5"), "expected a file ending in .keras"),
        ((_CONFIG, "--output=no/such/folder/a.keras"), "there is no folder no/such/folder"),
        ((_CONFIG, "--output=a.keras", "--confg=b"), "Did you mean: config"),
        ((_CONFIG, "--output=a.keras", "b"), "unexpected arguments: b"),
        (
            (_CONFIG, "--output=a.keras", "--config.training.long_term.epoch=3"),
            'no such field: epoch. Did you mean "epochs"',
        ),
        ((_CONFIG, "--output=a.keras", "--config.seed=a"), "invalid literal for int"),
        ((_CONFIG, "--output=a.keras", "--config.data.batch_size=0"), "config.data.batch_size is"),
        ((_CONFIG, "--output=a.keras", "--config.model=b.keras"), "there is no model 'b.keras'"),
        ((_CONFIG, "--output=a.keras", "--config.data.name=b"), "data.name is 'b'"),
        (
            (_CONFIG, "--output=a.keras", "--config.data.mean=(1.0,2.0,3.0)"),
            "data.mean has 3 values; expected 1",
        ),
    ],
)
def test_wrong_input_is_one_line_and_code_2(flags, message):
    result = _train(*flags)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]


def _branched(num_inputs: int, num_outputs: int, size: int | None = 28) -> keras.Model:
    inputs = [keras.Input((size, size, 1)) for _ in range(num_inputs)]
    joined = keras.layers.Concatenate()(inputs) if num_inputs > 1 else inputs[0]
    pooled = keras.layers.GlobalAveragePooling2D()(joined)
    outputs = [keras.layers.Dense(10)(pooled) for _ in range(num_outputs)]
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 1), "Set it to a metric of its task"),
        ((1, 2), "Set it to a metric of its task"),
        ((1, 1, None), "with --input_shape=28,28,1, the shape of the data"),
    ],
)
def test_other_models_than_classifiers_are_refused(tmp_path, arguments, message):
    _branched(*arguments).save(tmp_path / "model.keras")
    flags = (f"--output={tmp_path / 'a.keras'}", f"--config.model={tmp_path / 'model.keras'}")
    result = _train(_CONFIG, *flags)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert message in result.stderr.splitlines()[-1]


def test_existing_output_needs_overwrite(tmp_path):
    output = tmp_path / "model.keras"
    output.write_bytes(b"precious")
    result = _train(_CONFIG, f"--output={output}")
    assert result.returncode == 2 and "--overwrite replaces it" in result.stderr
    assert output.read_bytes() == b"precious"


def test_broken_config_files_are_one_line(tmp_path):
    config = tmp_path / "broken.py"
    config.write_text("def get_config():\n    raise ValueError('boom')\n")
    result = _train(f"--config={config}", "--output=a.keras")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr and "boom" in result.stderr
