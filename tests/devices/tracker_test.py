"""Several boards behind TVM's RPC tracker."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time

import pytest

from cprune_tf.compiler.session import CompilerSession
from cprune_tf.config import TuningConfig
from cprune_tf.devices import DeviceUnreachableError, open_device
from tests.compiler import workloads

from . import servers

pytest.importorskip("tornado", reason="TVM's tracker needs tornado (pip install tornado)")

NUM_JOBS = 12


@pytest.fixture
def tracker_port():
    with servers.tracker() as port:
        yield port


def board(port, key="pi"):
    return servers.running(f"--tracker=127.0.0.1:{port}", f"--key={key}")


def opened(port, key="pi", reconnect_sec=10):
    return open_device(f"tracker://127.0.0.1:{port}?key={key}&reconnect_sec={reconnect_sec}")


def doze(device, library):
    """0.3 s of sleep, whatever else the machine does."""
    return device.time_kernel(library, "doze", [], number=1, repeat=2, min_repeat_ms=0)


def all_jobs(device, library):
    start = time.monotonic()
    results = list(device.map(lambda _: doze(device, library), range(NUM_JOBS)))
    return results, time.monotonic() - start


def num_boards(device):
    return device._links[0].num_boards()


def test_two_boards_measure_nearly_twice_as_fast_as_one(tracker_port, native_library):
    with board(tracker_port), opened(tracker_port) as device:
        doze(device, native_library)
        one, one_sec = all_jobs(device, native_library)
        with board(tracker_port):
            servers.wait_for(lambda: num_boards(device) == 2)
            list(device.map(lambda _: doze(device, native_library), range(4)))  # connects
            two, two_sec = all_jobs(device, native_library)
    assert len(one) == len(two) == NUM_JOBS
    assert one_sec / two_sec >= 1.7


def test_when_one_of_two_boards_dies_nothing_is_lost(tracker_port, native_library):
    with (
        board(tracker_port) as first,
        board(tracker_port),
        opened(tracker_port, reconnect_sec=2) as device,
    ):
        servers.wait_for(lambda: num_boards(device) == 2)
        threading.Timer(1.0, first.kill).start()
        results, _ = all_jobs(device, native_library)
        assert len(results) == NUM_JOBS
        assert all(len(samples) == 2 and min(samples) >= 100 for samples in results)
        assert len(doze(device, native_library)) == 2


def test_a_board_that_dies_in_a_tuning_round_costs_no_program(
    tracker_port, native_library, tmp_path, monkeypatch
):
    few = TuningConfig(trials_per_task=8, trials_per_round=8, population_size=8)
    with (
        board(tracker_port) as first,
        board(tracker_port),
        opened(tracker_port, reconnect_sec=2) as device,
    ):
        servers.wait_for(lambda: num_boards(device) == 2)
        list(device.map(lambda _: doze(device, native_library), range(4)))  # connects
        calls, time_kernel = itertools.count(), device.time_kernel

        def timed(*arguments, **options):
            if next(calls) == 5:  # the other board measures at this moment
                first.cut_power()
            return time_kernel(*arguments, **options)

        monkeypatch.setattr(device, "time_kernel", timed)
        with CompilerSession(device, tmp_path, few, num_threads=1, seed=0) as session:
            lowered = session.lower(workloads.conv_model())
            summary = session.tune(lowered, few.trials_per_task)
            assert summary.num_failed == 0
            assert len(session.database) == summary.num_trials >= few.trials_per_task
        assert len(device._links) == 1


def test_boards_come_back_to_a_tracker_that_was_restarted(native_library):
    port = servers.free_port()
    with contextlib.ExitStack() as stack:
        with servers.tracker(port):
            stack.enter_context(board(port))
            device = stack.enter_context(opened(port, reconnect_sec=30))
            servers.wait_for(lambda: num_boards(device) == 1)
            doze(device, native_library)
        assert len(doze(device, native_library)) == 2  # the session needs no tracker
        device.close()
        with servers.tracker(port):
            assert len(doze(device, native_library)) == 2


def test_no_board_of_that_key(tracker_port):
    with (
        opened(tracker_port, key="none", reconnect_sec=0) as device,
        pytest.raises(DeviceUnreachableError, match=r"0 boards of key 'none'.*the tracker at host"),
    ):
        device.info()


def test_no_tracker():
    port = servers.free_port()
    with (
        opened(port, reconnect_sec=0) as device,
        pytest.raises(DeviceUnreachableError, match=rf"refused.*the tracker.*port {port}"),
    ):
        device.info()
