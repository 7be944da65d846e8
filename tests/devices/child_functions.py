"""What the tests have a child process run."""

from __future__ import annotations

import os
import re
import sys
import time


def echo(*args, **kwargs):
    return args, kwargs


def pid():
    return os.getpid()


def fail(message):
    raise ValueError(message)


def unpicklable():
    return lambda: None


def leave(status):
    print("about to leave", file=sys.stderr, flush=True)
    os._exit(status)


def die_of(signal_number):
    os.kill(os.getpid(), signal_number)
    time.sleep(60)


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def hang_holding_the_interpreter():
    re.match(r"(a+)+$", "a" * 64 + "b")


def talk(num_bytes):
    print("x" * num_bytes)
    sys.stderr.write("y" * num_bytes)


def modules():
    return sorted(sys.modules)


def num_threads_of_litert(path, num_threads):
    from cprune_tf.devices.agent.runtimes import LitertModel

    before = len(os.listdir("/proc/self/task"))
    model = LitertModel(path, num_threads)
    model.set_inputs(model.random_inputs())
    model.invoke()
    return len(os.listdir("/proc/self/task")) - before + 1


def affinities_after_tvm(num_threads):
    from cprune_tf.devices.agent.runtimes import set_tvm_threads

    set_tvm_threads(num_threads)
    return [sorted(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")]


def wait_until_idle_beside_a_busy_thread(busy_sec):
    import threading

    from cprune_tf.devices.agent.runtimes import wait_until_idle

    end = time.monotonic() + busy_sec
    ended = []

    def spin():
        while time.monotonic() < end:
            pass
        ended.append(True)

    threading.Thread(target=spin).start()
    wait_until_idle()
    return bool(ended)


def share_of_a_core_used_after_a_parallel_loop(library):
    from cprune_tf.devices.agent.runtimes import load_library, set_tvm_threads

    set_tvm_threads(2)
    load_library(library)["num_tasks"]()
    wall, cpu = time.monotonic(), time.process_time()
    time.sleep(0.2)
    return (time.process_time() - cpu) / (time.monotonic() - wall)


def fail_on_a_gpu(lost):
    from cprune_tf.devices.agent.accelerators import ending_when_lost

    class Gpu:
        def sync(self):
            if lost:
                raise RuntimeError("an illegal memory access was encountered")

    with ending_when_lost(Gpu()):
        raise ValueError("a kernel's own error")
