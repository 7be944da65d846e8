"""What a user got wrong is one line and exit code 2; what we got wrong keeps its traceback."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_TRAIN_CONFIG = f"--config={_ROOT / 'configs' / 'train_fashion_resnet8.py'}"
_PRUNE_CONFIG = f"--config={_ROOT / 'configs' / 'fashion_resnet8.py'}"


def _run(*command: str, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models and files that are wrong in some way, for relative names on command lines."""
    import keras
    from keras import layers

    folder = tmp_path_factory.mktemp("wrong")

    def save(name, shape):
        image = keras.Input(shape, name="image")
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="conv")(image))
        keras.Model(image, layers.Dense(3, name="head")(x), name=name).save(
            folder / f"{name}.keras"
        )

    save("tiny", (8, 8, 3))
    save("open", (None, None, 3))
    image = keras.Input((8, 8, 3))
    halved = layers.Lambda(lambda x: x * 0.5, output_shape=(8, 8, 3))(image)
    keras.Model(image, layers.Conv2D(4, 3, name="conv")(halved)).save(folder / "lambda.keras")
    first, second = keras.Input((4,)), keras.Input((4,))
    keras.Model([first, second], layers.Add()([first, second])).save(folder / "two_inputs.keras")
    for name in ("damaged.tflite", "damaged.so", "damaged.keras", "a_file"):
        (folder / name).write_bytes(b"x" * 100)
    (folder / "damaged_bundle").mkdir()
    (folder / "damaged_bundle" / "bundle.json").write_text("{")
    (folder / "damaged_run").mkdir()
    (folder / "damaged_run" / "journal.jsonl").write_text("{\n{\n")
    return folder


_BENCHMARK = ("benchmark", "--models=damaged.tflite")
_COMPARE = ("compare_tflite", "--model=tiny.keras")
_COMPARE_FILES = (*_COMPARE, "--library=damaged.so", "--tflite=damaged.tflite")
_PROFILE = ("profile", "--workdir=work", "--model=tiny.keras")
_STAIRCASE = ("staircase", "--workdir=work", "--model=tiny.keras")
_INSPECT = ("inspect_model", "--model=tiny.keras")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("benchmark",), "--models must have a value"),
        (_BENCHMARK, "damaged.tflite is not a model that LiteRT can run"),
        (("benchmark", "--models=damaged.so"), "damaged.so is not a TVM library"),
        (("benchmark", "--models=damaged.keras"), "damaged.keras cannot be loaded"),
        (("benchmark", "--models=open.keras"), "e.g. --input_shape=224,224,3"),
        ((*_BENCHMARK, "--device=moon"), "Unknown device 'moon'; expected 'local'"),
        ((*_BENCHMARK, "--device=rpc://board:x"), "Port could not be cast to integer"),
        ((*_BENCHMARK, "--device=rpc://[::1"), "Invalid IPv6 URL"),
        ((*_BENCHMARK, "--cores=x"), "cores is 'x'; this device has"),
        ((*_BENCHMARK, "--threads=9999"), "9999 threads were asked for"),
        ((*_BENCHMARK, "--threads=x"), "invalid literal for int"),
        ((*_BENCHMARK, "--max_time_sec=-1"), "max_time_sec is -1.0; expected a positive number"),
        ((*_BENCHMARK, "--json=no/such.json"), "--json is 'no/such.json', but there is no folder"),
        ((*_BENCHMARK, "--json=damaged_run"), "which is a folder; expected a file's name"),
        ((*_BENCHMARK, "--benchmark_model=none"), "--benchmark_model: there is no file 'none'"),
        ((*_COMPARE, "--library=none", "--tflite=none"), "--library: there is no file 'none'"),
        ((*_COMPARE_FILES, "--threads=1,x"), "--threads is '1,x'; expected positive numbers"),
        ((*_COMPARE_FILES, "--threads=0"), "--threads is '0'; expected positive numbers"),
        (_COMPARE_FILES, "damaged.so is not a TVM library"),
        ((*_COMPARE_FILES, "--model=two_inputs.keras"), "has 2 inputs; expected one"),
        ((*_COMPARE, "--layers", "--workdir=a_file/work"), "this folder cannot be made"),
        (("doctor", "--device=local", "--cleanup"), "--cleanup is for phones"),
        (("doctor", "--devices=local"), "Unknown command line flag"),
        (
            ("export_programs", "--runs=none", "--output=programs"),
            "--runs is 'none', which does not contain both database_workload",
        ),
        (("export_programs", "--runs=none", "--output=a_file"), "this folder cannot be made"),
        (("inspect_model", "--model=none.keras"), "there is no model 'none.keras'"),
        (("inspect_model", "--model=lambda.keras"), "allow it with unsafe_lambda"),
        ((*_INSPECT, "--draw=no/such.dot"), "Cannot draw to 'no/such.dot': No such file"),
        ((*_INSPECT, "--draw=graph.txt"), "expected a name ending in .dot"),
        (("make_bundle", "--output=a_file/bundles"), "this folder cannot be made"),
        (("profile", "--workdir=a_file/work", "--model=tiny.keras"), "this folder cannot be made"),
        ((*_PROFILE, "--model=open.keras"), "e.g. --input_shape=224,224,3"),
        ((*_STAIRCASE, "--model=open.keras", "--input_shape=8,8,1"), "that the model fixes"),
        (("prune", _PRUNE_CONFIG, "--workdir=run", "--input_shape=8x8"), "is '8x8'; expected"),
        (
            ("compare", _PRUNE_CONFIG, "--workdir=run", "--input_shape=a=8", "--input_shape=a=9"),
            "(--input_shape) is 'a=8;a=9'",
        ),
        (("quantize", _PRUNE_CONFIG, "--output=m.tflite", "--input_shape=0"), "is '0'; expected"),
        (("train", _TRAIN_CONFIG, "--output=m.keras", "--input_shape=0"), "is '0'; expected"),
        ((*_PROFILE, "--threads=9999"), "9999 threads were asked for"),
        ((*_PROFILE, "--database=a_file"), "tuning.database is 'a_file'"),
        ((*_PROFILE, "--protect=none*"), "'none*' matches no layer"),
        ((*_STAIRCASE, "--noise=-1"), "-1.0 is not a non-negative number"),
        ((*_STAIRCASE, "--smallest=2"), "not a number in the range"),
        ((*_STAIRCASE, "--points=0"), "--points is 0"),
        (("quantize", _PRUNE_CONFIG, "--output=model.keras"), "expected a file ending in .tflite"),
        (("quantize", _PRUNE_CONFIG, "--output=damaged.tflite"), "--overwrite replaces it"),
        (
            (
                *("quantize", _PRUNE_CONFIG, "--output=model.tflite"),
                "--config.quantization.num_images=0",
            ),
            "config.quantization.num_images is 0; expected a positive number",
        ),
        (("report", "--workdir=none"), "holds no journal.jsonl"),
        (("report", "--workdir=damaged_run"), "line 1 is not a journal event"),
        (("train", _TRAIN_CONFIG, "--output=damaged_run"), "expected a file ending in .keras"),
        (
            ("train", _TRAIN_CONFIG, "--output=m.keras", "--tensorboard_dir=a_file/log"),
            "this folder cannot be made",
        ),
        (("prune", _PRUNE_CONFIG, "--workdir=a_file/run"), "Cannot write a_file/run"),
        (("prune", _PRUNE_CONFIG, "--workdir=run", "--device=moon"), "Unknown device 'moon'"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_code_2(folder, command, says):
    tool, *flags = command
    done = _run(str(_ROOT / "tools" / f"{tool}.py"), *flags, folder=folder)
    assert done.returncode == 2, (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and says in line


@pytest.mark.parametrize(
    ("command", "function", "flags", "error"),
    [
        ("report", "report.write_report", ("--workdir=damaged_run",), "RuntimeError"),
        ("prune", "api.prune", (_PRUNE_CONFIG, "--workdir=run"), "RuntimeError"),
        ("inspect_model", "graph.analyze", ("--model=tiny.keras",), "ValueError"),
        ("doctor", "doctor.examine", (), "OSError"),
    ],
)
def test_a_bug_keeps_its_traceback(folder, command, function, flags, error):
    module, _, name = function.rpartition(".")
    program = (
        f"import cprune_tf.{module} as module\n"
        f"from cprune_tf.cli import {command}\n"
        f"def broken(*args, **kwargs): raise {error}('a bug')\n"
        f"module.{name} = broken\n"
        f"{command}.run()\n"
    )
    done = _run("-c", program, *flags, folder=folder)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "Traceback" in done.stderr and f"{error}: a bug" in done.stderr
    assert "error: a bug" not in done.stderr


def test_the_code_of_a_trusted_file_runs(folder):
    script = str(_ROOT / "tools" / "inspect_model.py")
    done = _run(script, "--model=lambda.keras", "--unsafe_lambda", folder=folder)
    assert done.returncode == 0 and "conv" in done.stdout, done.stderr


def test_a_size_is_given_on_the_command_line(folder):
    script = str(_ROOT / "tools" / "inspect_model.py")
    done = _run(script, "--model=open.keras", "--input_shape=18,10,3", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "'image' from (None, None, None, 3) to (None, 18, 10, 3)" in done.stdout
    assert "16x8x4" in done.stdout


def test_a_damaged_bundle_is_made_anew_or_named(folder):
    from cprune_tf.devices import bundle

    with pytest.raises(bundle.BundleError, match=r"bundle\.json is damaged.*--overwrite"):
        bundle.find_bundle(folder / "damaged_bundle")
