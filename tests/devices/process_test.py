from __future__ import annotations

import _thread
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from cprune_tf.devices.errors import DeviceCrashError, DeviceError, DeviceTimeoutError
from cprune_tf.devices.process import WorkerProcess

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
PATH = os.pathsep.join((str(ROOT), str(HERE)))
LONG_SEC = 60.0


def call(worker, name, *args, timeout_sec=LONG_SEC, **kwargs):
    return worker.call(f"child_functions:{name}", *args, timeout_sec=timeout_sec, **kwargs)


@pytest.fixture(scope="module")
def worker():
    with WorkerProcess({"PYTHONPATH": PATH}) as started:
        yield started


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_arguments_and_results_arrive(worker):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    (received,), keywords = call(worker, "echo", array, key=("a", None))
    np.testing.assert_array_equal(received, array)
    assert keywords == {"key": ("a", None)}


def test_what_is_larger_than_a_pipe_arrives(worker):
    array = np.random.default_rng(0).random(3_000_000)
    (received,), _ = call(worker, "echo", array)
    np.testing.assert_array_equal(received, array)


def test_one_process_serves_all_calls_and_is_not_this_one(worker):
    assert call(worker, "pid") == call(worker, "pid") == worker.pid != os.getpid()


def test_an_exception_is_told_and_the_process_lives_on(worker):
    pid = call(worker, "pid")
    with pytest.raises(DeviceError, match=r"fail failed: ValueError: no such luck"):
        call(worker, "fail", "no such luck")
    assert call(worker, "pid") == pid


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("child_functions:missing", "missing failed: AttributeError"),
        ("no_such_module:function", "function failed: ModuleNotFoundError"),
        ("child_functions:unpicklable", "unpicklable failed:"),
    ],
)
def test_a_call_that_cannot_be_made_is_told(worker, name, reason):
    with pytest.raises(DeviceError, match=reason):
        worker.call(name, timeout_sec=LONG_SEC)
    assert call(worker, "echo", 1) == ((1,), {})


@pytest.mark.parametrize(
    ("name", "argument", "reason"),
    [
        ("die_of", signal.SIGSEGV, r"ended by SIGSEGV"),
        ("die_of", signal.SIGABRT, r"ended by SIGABRT"),
        ("die_of", signal.SIGKILL, r"ended by SIGKILL \(the kernel's out-of-memory killer\?\)"),
        ("leave", 3, r"exit status 3\. It printed:\nabout to leave"),
    ],
)
def test_a_crash_names_its_reason_and_costs_one_call(worker, name, argument, reason):
    before = call(worker, "pid")
    with pytest.raises(DeviceCrashError, match=reason):
        call(worker, name, int(argument))
    assert call(worker, "pid") != before
    assert not is_running(before)


@pytest.mark.parametrize(
    ("name", "args"), [("sleep", (LONG_SEC,)), ("hang_holding_the_interpreter", ())]
)
def test_a_hang_is_ended_and_costs_one_call(worker, name, args):
    before = call(worker, "pid")
    with pytest.raises(DeviceTimeoutError, match=rf"{name} did not end within 0\.5 s"):
        call(worker, name, *args, timeout_sec=0.5)
    assert not is_running(before)
    assert call(worker, "echo", 1) == ((1,), {})


def test_a_process_that_died_between_calls_is_replaced(worker):
    before = call(worker, "pid")
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    assert call(worker, "pid") != before


def test_what_the_child_prints_stays_off_the_terminal_and_blocks_nothing(worker, capfd):
    for _ in range(3):
        call(worker, "talk", 1 << 20)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.fixture
def interruptible():
    """Interrupts end what runs, also where a shell in the background started the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_call_leaves_no_answer_for_the_next_one(worker, interruptible):
    call(worker, "pid")
    threading.Timer(0.3, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        # The interrupt is seen between two polls: a signal, unlike this, would end the poll early.
        call(worker, "sleep", 6.0)
    assert call(worker, "echo", "mine") == (("mine",), {})


def test_threads_do_not_mix_up_their_answers(worker):
    answers = {}

    def ask(number):
        answers[number] = call(worker, "echo", number)[0][0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: number for number in range(20)}


def test_close_ends_the_child_and_a_later_call_starts_another():
    worker = WorkerProcess({"PYTHONPATH": PATH})
    assert worker.pid is None
    first = call(worker, "pid")
    worker.close()
    assert worker.pid is None
    assert not is_running(first)
    assert call(worker, "pid") != first
    worker.close()
    worker.close()


def test_descriptors_are_not_leaked():
    worker = WorkerProcess({"PYTHONPATH": PATH})
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(DeviceCrashError):
            call(worker, "leave", 1)
    worker.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_child_ends_with_a_killed_parent_even_while_it_works():
    script = (
        "import threading, sys\n"
        "from cprune_tf.devices.process import WorkerProcess\n"
        "worker = WorkerProcess()\n"
        "print(worker.call('child_functions:pid', timeout_sec=60), flush=True)\n"
        "worker.call('child_functions:sleep', 300, timeout_sec=300)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": PATH},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while is_running(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.1)
