from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

from cprune_tf import litert
from cprune_tf.config import DataConfig
from cprune_tf.data import load

_ROOT = pathlib.Path(__file__).parents[2]


def test_a_model_is_quantised_compared_and_explained(tmp_path):
    output = tmp_path / "int8.tflite"
    flags = (
        f"--config={_ROOT / 'configs' / 'fashion_resnet8.py'}",
        f"--output={output}",
        "--max_drop=-1",  # every file is explained
        "--layers=3",
        "--config.data.max_train=640",
        "--config.data.max_test=200",
        "--config.measure.max_time_sec=0.1",
        "--config.quantization.num_images=64",
        "--config.quantization.keep_float=('stem_conv',)",
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])}
    result = subprocess.run(
        [sys.executable, str(_ROOT / "tools" / "quantize.py"), *flags],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "ranges from 64 training images" in result.stdout
    assert re.search(r"Kept in float32 as asked: stem_conv.*\(CONV_2D\)", result.stdout)
    data = load(DataConfig(max_train=640, max_test=200))
    accuracy = litert.evaluate(output.read_bytes(), data.test_images, data.test_labels)
    row = next(line for line in result.stdout.splitlines() if line.strip().startswith("int8"))
    assert row.split()[1] == f"{100 * accuracy:.2f}" and row.strip().endswith("×")
    assert result.stdout.count("CONV_2D") + result.stdout.count("ADD") >= 2
    assert "most of the error" in result.stdout
