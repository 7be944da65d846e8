"""The whole chain with one config on every kind of device: prune, cross-check there, report."""

from __future__ import annotations

import platform
import threading

import pytest

from cprune_tf.devices import DeviceUnreachableError, open_device
from tests.devices import private_network, servers
from tests.pipeline import device_run
from tests.rig import phone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def test_a_model_is_pruned_for_this_machine(tiny_model_path, tmp_path):
    device_run.prune(tiny_model_path, "local", tmp_path / "run")
    device_run.check(tmp_path / "run", "local", platform.machine(), emulated=False)


def test_a_model_is_pruned_for_the_emulated_board(rig, tiny_model_path, tmp_path):
    with servers.running(python=rig.board_python, environment=rig.environment()) as server:
        device_run.prune(tiny_model_path, f"rpc://127.0.0.1:{server.port}", tmp_path / "run")
    device_run.check(tmp_path / "run", "rpc", "aarch64", emulated=True)


def test_a_model_is_pruned_at_int8_in_litert_for_the_emulated_board(rig, tiny_model_path, tmp_path):
    workdir = tmp_path / "run"
    with servers.running(python=rig.board_python, environment=rig.environment()) as server:
        name = f"rpc://127.0.0.1:{server.port}"
        device_run.prune(tiny_model_path, name, workdir, int8=True)
        with open_device(name) as board:
            device_run.check_same_scores(workdir, board)
    device_run.check_int8(workdir, "rpc", "aarch64")


def test_a_model_is_pruned_at_int8_in_litert_for_the_emulated_phone(rig, tiny_model_path, tmp_path):
    workdir = tmp_path / "run"
    _prune_for_the_phone(rig, tiny_model_path, workdir, "int8")
    device_run.check_int8(workdir, "adb", "aarch64")


def test_a_model_is_pruned_for_the_emulated_phone_which_is_unplugged_meanwhile(
    rig, tiny_model_path, tmp_path
):
    workdir = tmp_path / "run"
    _prune_for_the_phone(rig, tiny_model_path, workdir, "unplugged")
    device_run.check(workdir, "adb", "aarch64", emulated=True)


def _prune_for_the_phone(rig, model_path, workdir, what):
    if not private_network.is_allowed():
        pytest.skip("this system does not let users make namespaces (unshare -Urn --pid)")
    command = ["-m", "tests.pipeline.phone_run", str(model_path), str(workdir), what]
    done = phone.in_private_network(rig, command, timeout_sec=2800)
    print(done.stdout[-3000:], done.stderr[-3000:])
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_run_whose_board_was_lost_resumes_when_it_is_back(tiny_model_path, tmp_path):
    workdir = tmp_path / "run"
    with servers.running() as server:
        device = f"rpc://127.0.0.1:{server.port}?reconnect_sec=1"

        def kill_in_the_middle():
            servers.wait_for(lambda: device_run.num_records(workdir) >= 3)
            server.kill()

        killer = threading.Thread(target=kill_in_the_middle)
        killer.start()
        with pytest.raises(DeviceUnreachableError, match=r"cannot be reached.*--resume"):
            device_run.prune(tiny_model_path, device, workdir)
        killer.join()
    measured = device_run.num_records(workdir)
    with servers.running(port=server.port):
        result = device_run.prune(tiny_model_path, device, workdir, resume=True)
    assert result.report.finished
    assert device_run.num_records(workdir) > measured >= 3
