from __future__ import annotations

import textwrap

import pytest

from cprune_tf.config import MeasureConfig
from cprune_tf.devices import DeviceError, open_device
from cprune_tf.devices.agent.benchmark_model import parse_output
from cprune_tf.devices.local import LocalDevice

from .. import servers

# As the tool prints it; older ones have no percentiles.
NEW = """INFO: Initialized session in 119.515ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds
INFO: count=9 first=87112 curr=51629 min=51629 max=87112 avg=58147.4 std=11478 median=51962

INFO: Running benchmark for at least 50 iterations and at least 1 seconds
INFO: count=1000 first=52162 curr=49785 min=49088 max=686105 avg=63743.2 std=60716 median=51891

INFO: Inference timings in us: Init: 119515, Warmup (avg): 58147.4, Inference (avg): 63743.2
"""
OLD = """count=215 first=12231 curr=2106 min=2065 max=12231 avg=2331.42 std=746

count=459 first=2143 curr=2101 min=2056 max=2656 avg=2177.1 std=124

Timings (microseconds): count=459 first=2143 curr=2101 min=2056 max=2656 avg=2999 std=124
"""


def test_the_timed_runs_are_read_not_the_warm_up():
    new, old = parse_output(NEW), parse_output(OLD)
    assert (new.num_runs, new.median_ms) == (1000, 51.891)
    assert new.mean_ms == pytest.approx(63.7432)
    assert (new.min_ms, new.max_ms, new.std_ms) == (49.088, 686.105, 60.716)
    assert (old.num_runs, old.median_ms) == (459, None) and old.mean_ms == pytest.approx(2.1771)
    assert "median 51.89 ms" in str(new) and "median" not in str(old)


def test_equal_runs_are_told_by_one_number():
    same = parse_output("count=1 curr=7\ncount=50 curr=12(all same)\n")
    assert (same.num_runs, same.mean_ms, same.min_ms, same.std_ms) == (50, 0.012, 0.012, 0.0)


@pytest.mark.parametrize("printed", ["", "count=3 first=1 avg=2 std=1", "no\nsuch\nmodel"])
def test_output_without_timed_runs_is_quoted(printed):
    with pytest.raises(RuntimeError, match=r"no statistics of timed runs.*It ended with: "):
        parse_output(printed)


def _tool(folder, script):
    """A stand-in: the real tool is a user's own binary for one system."""
    path = folder / "benchmark_model"
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(script)}\ncat <<'END'\n{NEW}END\n")
    return path


def _run(device, tool, tmp_path):
    model = tmp_path / "model.tflite"
    model.write_bytes(b"a model")
    return device.run_benchmark_model(tool, model, 1, MeasureConfig(max_time_sec=0.5))


CHECKS = """
    for word in "$@"; do case "$word" in
        --graph=*) [ "$(cat "${word#--graph=}")" = "a model" ] || exit 3 ;;
        --num_threads=*) [ "$word" = --num_threads=1 ] || exit 4 ;;
        --max_secs=*) [ "$word" = --max_secs=0.5 ] || exit 5 ;;
    esac; done
    [ -z "$LD_LIBRARY_PATH" ] || exit 6
"""


def test_the_tool_runs_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/of/a/phone")
    with LocalDevice() as device:
        assert _run(device, _tool(tmp_path, CHECKS), tmp_path).median_ms == 51.891


def test_the_tool_is_sent_to_a_board_and_runs_there(tmp_path):
    with (
        servers.running() as server,
        open_device(f"rpc://127.0.0.1:{server.port}") as device,
    ):
        assert _run(device, _tool(tmp_path, CHECKS), tmp_path).num_runs == 1000


def test_a_tool_that_fails_is_quoted(tmp_path):
    with LocalDevice() as device:
        with pytest.raises(DeviceError, match=r"ended with code 3: .*no such model"):
            _run(device, _tool(tmp_path, "echo ERROR: no such model >&2; exit 3"), tmp_path)
        other = tmp_path / "other"
        other.write_bytes(b"\x7fELF of another machine")
        with pytest.raises(DeviceError, match=r"cannot be run on this device.*must be built for"):
            _run(device, other, tmp_path)
