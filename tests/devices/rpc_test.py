"""Devices over TVM RPC: a real server on this machine, misused in every way that was thought of."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from cprune_tf.config import MeasureConfig
from cprune_tf.devices import (
    DeviceCrashError,
    DeviceError,
    DeviceTimeoutError,
    DeviceUnreachableError,
    ModelFile,
    open_device,
    rpc,
)

from . import private_network, servers

QUICK = MeasureConfig(warmup_ms=5.0, min_samples=10, max_time_sec=0.3, stable_fraction=0.2)


@contextlib.contextmanager
def opened(server, query="reconnect_sec=2"):
    with open_device(f"rpc://127.0.0.1:{server.port}?{query}") as device:
        yield device


def nothing(device, library):
    return device.time_kernel(library, "nothing", [], min_repeat_ms=0, timeout_sec=10)


@pytest.fixture(scope="module")
def server():
    with servers.running("--key=secret") as running:
        yield running


@pytest.fixture(scope="module")
def board(server):
    with opened(server, "key=secret&reconnect_sec=2") as device:
        yield device


# --- what works as on the local device


def test_it_says_what_it_is(board, device):
    info = board.info()
    assert info.kind == "rpc"
    assert not info.emulated
    assert (info.abi, info.num_cores) == (device.info().abi, device.info().num_cores)
    assert info.runtimes == device.info().runtimes
    assert board.target(1)["mtriple"] == f"{info.abi}-linux-gnu"


def test_both_runtimes_give_what_they_give_locally(board, device, dense_library, conv_tflite):
    rng = np.random.default_rng(0)
    for file, shape in (
        (ModelFile("dense", "tvm", dense_library), (5, 16)),
        (ModelFile("conv", "litert", conv_tflite), (3, 32, 32, 16)),
    ):
        x = rng.normal(size=shape).astype(np.float32)
        np.testing.assert_array_equal(board.run_model(file, x)[0], device.run_model(file, x)[0])


def test_both_runtimes_are_timed_in_one_session(board, dense_library, conv_tflite):
    files = [ModelFile("a", "tvm", dense_library), ModelFile("b", "litert", conv_tflite)]
    dense, conv = board.time_models(files, 1, QUICK)
    assert dense.count >= 10
    assert dense.median_ms < conv.median_ms
    assert not dense.conditions.emulated


@pytest.mark.parametrize(
    ("function", "error", "reason"),
    [
        ("abort", DeviceCrashError, "SIGABRT"),
        ("segfault", DeviceCrashError, "SIGSEGV"),
        ("hang", DeviceTimeoutError, r"did not end within 1 s on rpc://"),
        ("missing", DeviceError, "missing"),
    ],
)
def test_a_bad_kernel_costs_one_call(board, native_library, function, error, reason):
    with pytest.raises(error, match=reason):
        board.time_kernel(native_library, function, [], timeout_sec=1.0, min_repeat_ms=0)
    assert len(nothing(board, native_library)) == 3


def test_files_are_sent_once_and_only_by_content(board, dense_library, tmp_path):
    x = np.zeros((1, 16), np.float32)
    path = tmp_path / "model.so"
    path.write_bytes(dense_library.read_bytes())
    board.run_model(ModelFile("m", "tvm", path), x)
    path.write_bytes(b"something else")
    with pytest.raises(DeviceError, match="not a TVM library"):
        board.run_model(ModelFile("m", "tvm", path), x)
    path.unlink()
    with pytest.raises(DeviceError, match="There is no file"):
        board.run_model(ModelFile("m", "tvm", path), x)
    board.run_model(ModelFile("m", "tvm", dense_library), x)


# --- what is wrong from the start


@pytest.mark.parametrize("key", ["", "secre", "secret2"])
def test_a_wrong_key_is_named_at_once(server, board, key):
    board.close()  # one session at a time
    start = time.monotonic()
    with (
        opened(server, f"key={key}&reconnect_sec=100") as device,
        pytest.raises(DeviceUnreachableError, match=r"another key.*host 127\.0\.0\.1.*doctor"),
    ):
        device.info()
    assert time.monotonic() - start < 60


def test_a_wrong_port_names_host_port_and_key_in_time():
    port = servers.free_port()
    with (
        open_device(f"rpc://127.0.0.1:{port}?key=k&reconnect_sec=1") as device,
        pytest.raises(DeviceUnreachableError, match=rf"refused.*port {port}, key 'k' for 1 s"),
    ):
        device.info()


def test_a_stock_tvm_server_is_told_from_ours():
    port = servers.free_port()
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host=127.0.0.1", "--silent"]
    with subprocess.Popen([*command, f"--port={port}", f"--port-end={port + 1}"]) as process:
        try:
            servers.wait_for(lambda: servers.accepts(port))
            with (
                open_device(f"rpc://127.0.0.1:{port}?reconnect_sec=0") as device,
                pytest.raises(DeviceUnreachableError, match=r"but not cprune_tf's"),
            ):
                device.info()
        finally:
            process.terminate()


def test_another_version_of_tvm_is_refused(tmp_path):
    described = tmp_path / "apache_tvm-0.25.0.dist-info"
    described.mkdir()
    text = "Metadata-Version: 2.1\nName: apache-tvm\nVersion: 0.25.0\n"
    (described / "METADATA").write_text(text)
    path = f"{tmp_path}:{servers.ROOT}"
    with (
        servers.running(environment=servers.native_environment(PYTHONPATH=path)) as other,
        opened(other) as device,
        pytest.raises(DeviceUnreachableError, match=r"Version mismatch.*has apache-tvm 0\.25\.0"),
    ):
        device.info()


def test_the_server_needs_neither_tensorflow_nor_keras():
    script = (
        "import sys, cprune_tf.devices.agent.server\n"
        "assert 'numpy' not in sys.modules\n"
        "import cprune_tf.devices.agent.session, cprune_tf.devices.agent.tracking\n"
        "print([name for name in ('tensorflow', 'keras', 'ml_collections', 'absl', 'tvm')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--host=0.0.0.0"], "needs a --key"),
        (["--tracker=desk:9190"], "needs a --key"),
        (["--tracker=desk", "--key=k"], "expected HOST:PORT"),
    ],
)
def test_the_server_refuses_to_be_open_to_all(options, reason):
    command = [sys.executable, "-m", "cprune_tf.devices.agent.server", *options]
    done = subprocess.run(
        command, env=servers.native_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert reason in done.stderr


def test_stock_clients_cannot_leave_the_servers_folder(tmp_path):
    import tvm.rpc

    target = tmp_path / "planted"
    with servers.running() as other:
        session = tvm.rpc.connect("127.0.0.1", other.port)
        session.upload(bytearray(b"fine"), "plain.bin")
        assert bytes(session.download("plain.bin")) == b"fine"
        for name in (str(target), "../planted", "..", ""):
            with pytest.raises(Exception, match="not a plain file name"):
                session.get_function("tvm.rpc.server.upload")(name, bytearray(b"x"))
            with pytest.raises(Exception, match="not a plain file name"):
                session.download(name or "../plain.bin")
        del session
    assert not target.exists()


# --- a board that is in use


def test_a_board_in_use_is_named_in_time_and_serves_on(native_library, monkeypatch):
    monkeypatch.setattr(rpc, "_BUSY_SEC", 2.0)
    with servers.running("--key=k") as other, opened(other, "key=k") as first:
        nothing(first, native_library)
        start = time.monotonic()
        with (
            opened(other, "key=k&reconnect_sec=100") as second,
            pytest.raises(DeviceUnreachableError, match=r"(?s)in use: .*Waited 2 s.*tracker"),
        ):
            second.info()
        assert time.monotonic() - start < 60  # not reconnect_sec: it is there, just not free
        with (
            opened(other, "key=wrong&reconnect_sec=0") as third,
            pytest.raises(DeviceUnreachableError, match="another key"),
        ):
            third.info()
        assert len(nothing(first, native_library)) == 3
        first.close()
        with opened(other, "key=k") as second:
            assert len(nothing(second, native_library)) == 3


def test_a_host_that_goes_in_the_middle_of_a_call_leaves_the_board_free(native_library):
    with servers.running() as other, opened(other) as first:
        nothing(first, native_library)
        worker = first._links[0]._worker
        killer = threading.Timer(1.0, lambda: os.kill(worker.pid, signal.SIGKILL))
        killer.start()
        # Its own call is repeated in a session that can only begin once the first one has ended.
        with pytest.raises(DeviceTimeoutError, match="time_kernel did not end"):
            first.time_kernel(native_library, "hang", [], timeout_sec=8, min_repeat_ms=0)
        assert len(nothing(first, native_library)) == 3


# --- what breaks meanwhile


def test_a_server_that_was_restarted_between_calls_is_found_again(native_library):
    with servers.running() as first, opened(first, "reconnect_sec=30") as device:
        nothing(device, native_library)
        first.kill()
        with servers.running(port=first.port):
            assert len(nothing(device, native_library)) == 3


def test_a_measurement_whose_server_was_killed_is_repeated(native_library):
    with servers.running() as first, opened(first, "reconnect_sec=60") as device:
        nothing(device, native_library)
        killer = threading.Timer(0.5, first.kill)
        killer.start()
        with contextlib.ExitStack() as stack:
            restart = threading.Timer(
                1.5, lambda: stack.enter_context(servers.running(port=first.port))
            )
            restart.start()
            samples = device.time_kernel(
                native_library, "doze", [], number=1, repeat=20, min_repeat_ms=0
            )
            restart.join()
        assert len(samples) == 20
        assert min(samples) >= 100


def test_a_server_that_is_gone_ends_in_one_clear_error(native_library):
    with servers.running() as first, opened(first) as device:
        nothing(device, native_library)
        first.kill()
        assert not servers.accepts(first.port)  # its session does not hold the port
        with pytest.raises(DeviceUnreachableError, match=r"cannot be reached.*--resume"):
            while True:  # until the session has noticed that it is an orphan
                nothing(device, native_library)
                time.sleep(0.5)


def test_sessions_end_when_idle_or_old_and_nobody_notices(native_library):
    with (
        servers.running("--max_idle_sec=1", "--max_session_sec=2") as other,
        opened(other) as device,
    ):
        nothing(device, native_library)
        time.sleep(3)
        assert len(nothing(device, native_library)) == 3


def test_the_servers_limit_of_a_call_holds_whatever_the_host_allows(native_library):
    with servers.running("--max_call_sec=1") as other, opened(other) as device:
        with pytest.raises(DeviceCrashError, match="exit status 1"):
            device.time_kernel(native_library, "hang", [], timeout_sec=100)
        assert len(nothing(device, native_library)) == 3


def test_a_board_that_vanishes_without_closing_its_connection():
    if not private_network.is_allowed():
        pytest.skip("this system does not let users make namespaces (unshare -Urn --pid)")
    checks = pathlib.Path(__file__).with_name("cut_off_checks.py")
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(checks)]
    done = private_network.run_python(command, {}, timeout_sec=300)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "1 passed" in done.stdout
