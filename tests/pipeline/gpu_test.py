"""The whole chain on this machine's GPU."""

from __future__ import annotations

import platform

import pytest
import tvm

from cprune_tf.compiler.building.gpu_toolchain import ToolchainError, check_toolchain
from cprune_tf.devices import DeviceError, open_device
from tests.pipeline import device_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def test_a_model_is_pruned_for_this_machines_gpu(tiny_model_path, tmp_path):
    try:
        with open_device("local?gpu=cuda") as device:
            check_toolchain(tvm.target.Target(device.target()))
    except (DeviceError, ToolchainError) as error:
        pytest.skip(str(error))
    device_run.prune(tiny_model_path, "local?gpu=cuda", tmp_path / "run")
    device_run.check(tmp_path / "run", "local", platform.machine(), emulated=False)
    (checked,) = device_run.events(tmp_path / "run", "cross_check")
    for result in checked["results"]:
        for latency in result["latencies"]:
            on_gpu = latency["conditions"]["processor"].endswith("(cuda)")
            assert on_gpu == (result["runtime"] == "tvm")
