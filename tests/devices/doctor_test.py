"""The doctor finds each fault by name, and the tools work against a real server."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cprune_tf import doctor

from . import servers

ALL = ["host", "port", "session", "runtimes", "cores", "gpu", "one operator through TVM",
       "one model through TFLite"]  # fmt: skip


@pytest.fixture(scope="module")
def server():
    with servers.running("--key=secret") as running:
        yield running


def examined(name):
    findings = list(doctor.examine(name))
    assert all(finding.ok for finding in findings[:-1])
    return findings


def test_nothing_is_wrong_with_a_server_that_works(server):
    findings = examined(f"rpc://127.0.0.1:{server.port}?key=secret")
    assert [finding.check for finding in findings] == ALL
    assert findings[-1].ok, findings[-1].text


@pytest.mark.parametrize(
    ("name", "check", "remedy"),
    [
        ("rpc://no-such-board.invalid", "host", "IP address"),
        (
            "rpc://127.0.0.1:PORT?key=k&reconnect_sec=0",
            "port",
            "python -m cprune_tf.devices.agent.server",
        ),
        ("tracker://127.0.0.1:PORT?key=k", "port", "python -m tvm.exec.rpc_tracker"),
        ("rpc://127.0.0.1:SERVER?key=wrong&reconnect_sec=0", "session", "another key"),
        ("rpc://127.0.0.1:SERVER?key=secret&cpu=z80", "cores", "knows no such processor"),
        ("adb:R5CT", "adb", "apt-get install adb"),
        ("toaster", "session", "expected 'local'"),
    ],
)
def test_each_fault_is_found_by_name(server, monkeypatch, name, check, remedy):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("ADB", raising=False)
    name = name.replace("PORT", str(servers.free_port())).replace("SERVER", str(server.port))
    last = examined(name)[-1]
    assert (last.check, last.ok) == (check, False)
    assert remedy in last.text


def run_tool(name, *flags):
    command = [sys.executable, str(servers.ROOT / "tools" / f"{name}.py"), *flags]
    environment = servers.native_environment()
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_doctors_exit_code_says_whether_it_is_well():
    done = run_tool("doctor", f"--device=rpc://127.0.0.1:{servers.free_port()}?reconnect_sec=0")
    assert done.returncode == 1
    assert "ok    host" in done.stdout
    assert "FAIL  port" in done.stdout
    done = run_tool("doctor", "--device=local", "--cleanup")
    assert done.returncode == 2
    assert "--cleanup is for phones" in done.stderr


def test_benchmark_times_both_runtimes_on_a_board(server, dense_library, conv_tflite, tmp_path):
    written = tmp_path / "result.json"
    done = run_tool(
        "benchmark",
        f"--device=rpc://127.0.0.1:{server.port}?key=secret",
        f"--models={dense_library},{conv_tflite}",
        "--max_time_sec=0.2",
        f"--json={written}",
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(written.read_text())["results"]
    assert [result["runtime"] for result in results] == ["tvm", "litert"]
    assert "x the first" in done.stdout


def test_compare_tflite_agrees_on_a_board(server, dense_library, dense_weights, tmp_path):
    import keras

    from cprune_tf.litert import convert

    dense = keras.layers.Dense(4, activation="relu", use_bias=False)
    model = keras.Sequential([keras.Input((16,)), dense], name="dense")
    dense.set_weights([dense_weights])
    model.save(tmp_path / "model.keras")
    (tmp_path / "model.tflite").write_bytes(convert(model))
    flags = [
        f"--device=rpc://127.0.0.1:{server.port}?key=secret",
        f"--model={tmp_path / 'model.keras'}",
        f"--tflite={tmp_path / 'model.tflite'}",
    ]
    done = run_tool("compare_tflite", *flags, f"--library={dense_library}")
    assert done.returncode in (0, 1), done.stderr  # 1: another program made a latency unsteady
    assert done.stdout.count("same first class in 100.0%") == 2
    dense.set_weights([dense_weights[::-1].copy()])
    model.save(tmp_path / "model.keras")
    done = run_tool("compare_tflite", *flags, f"--library={dense_library}")
    assert done.returncode == 1
    assert "problem: dense on tvm: outputs differ from Keras" in done.stdout


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--models=none.so"], "there is no file 'none.so'"),
        (["--models=setup.py"], "expected .so, .tflite or .keras"),
        (["--models=setup.py", "--cores=x", "--device=moon"], "expected .so"),
    ],
)
def test_benchmark_refuses_what_it_cannot_time(flags, reason, monkeypatch):
    monkeypatch.chdir(servers.ROOT)
    done = run_tool("benchmark", *flags)
    assert done.returncode == 2
    assert reason in done.stderr
