from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from cprune_tf.devices import DeviceInfo, Latency, ModelFile
from cprune_tf.runtimes.base import input_specs


def test_latency_summarises_samples():
    latency = Latency.from_samples([4.0, 1.0, 3.0, 2.0, 5.0], num_threads=2)
    assert latency == Latency(3.0, 2.0, 4.0, 1.0, 5, 2)
    assert latency.iqr_ms == 2.0
    assert str(latency) == "3 ms (quartiles 2 to 4, 5 samples, 2 threads)"


def test_latency_survives_json():
    latency = Latency.from_samples([0.1, 0.2, 0.4], num_threads=1)
    assert Latency.from_json(json.loads(json.dumps(latency.to_json()))) == latency


@pytest.mark.parametrize("samples", [[], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_latency_refuses_what_is_no_duration(samples):
    with pytest.raises(ValueError, match="at least one sample, all of them positive"):
        Latency.from_samples(samples, num_threads=1)


def test_device_info_survives_json(device):
    info = device.info()
    assert DeviceInfo.from_json(json.loads(json.dumps(info.to_json()))) == info


def test_model_file_takes_paths_and_refuses_other_runtimes():
    assert ModelFile("m", "tvm", pathlib.Path("a") / "b.so").path == str(pathlib.Path("a/b.so"))
    with pytest.raises(ValueError, match=r"runtime 'onnx'; expected one of tvm, litert"):
        ModelFile("m", "onnx", "m.onnx")


def test_importing_devices_is_light():
    script = (
        "import sys, cprune_tf.devices, cprune_tf.devices.local\n"
        "import cprune_tf.devices.agent.on_device\n"
        "print([name for name in ('tensorflow', 'keras', 'tvm', 'ml_collections', 'ai_edge_litert')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


def test_inputs_are_converted_to_what_the_file_takes():
    doubles = keras.Input((2,), dtype="float64", name="doubles")
    pixels = keras.Input((2,), dtype="uint8", name="pixels")
    both = keras.ops.cast(pixels, "float32") + keras.ops.cast(doubles, "float32")
    specs = input_specs(keras.Model([doubles, pixels], both))
    assert specs == (("float32", (1, 2)), ("uint8", (1, 2)))
    values = np.array([[0.4, 254.6]])
    converted = ModelFile("model", "litert", "model.tflite", specs).converted([values, values])
    assert [array.dtype for array in converted] == [np.float32, np.uint8]
    assert converted[1].tolist() == [[0, 255]]
    (as_given,) = ModelFile("model", "litert", "model.tflite").converted([values])
    assert as_given is values
