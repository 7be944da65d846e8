from __future__ import annotations

import ctypes
import os
import pathlib
import signal
import threading
import time

import pytest
from tvm.s_tir import Schedule

from cprune_tf.compiler.building.builder import ProgramBuilder, build_program

from .. import workloads

KERNEL = "__tvm_ffi_main"


@pytest.fixture(scope="module")
def workload():
    return workloads.dense_workload()


def _worker_pids() -> set[int]:
    """The build processes of this process."""
    children = pathlib.Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = {int(pid) for path in children for pid in path.read_text().split()}
    return {
        pid for pid in pids if b"popen_worker" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    }


def _check_built(result):
    assert result.error is None
    assert hasattr(ctypes.CDLL(str(result.library)), KERNEL)


def test_builds_come_in_order_and_can_be_discarded(builder):
    mods = [workloads.dense_workload(size) for size in (8, 16, 24)]
    results = builder.build(mods)
    for result in results:
        _check_built(result)
    assert len({result.library for result in results}) == 3
    builder.discard(results)
    assert not any(result.library.exists() for result in results)
    builder.discard(results)  # nothing left to delete is no error


def test_builds_nothing_from_nothing(builder):
    assert builder.build([]) == []


def test_an_unbuildable_module_costs_itself_only(builder, workload):
    threads = Schedule(workload)
    (block, *_) = threads.get_child_blocks(threads.get_sblock("root"))
    threads.bind(threads.get_loops(block)[1], "threadIdx.x")  # of a GPU
    good, bad, last = builder.build([workload, threads.mod, workload])
    _check_built(good)
    _check_built(last)
    assert bad.library is None and bad.error


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="workers are found in /proc")
def test_a_killed_worker_costs_its_build_only(target, workload):
    before = _worker_pids()
    with ProgramBuilder(target, num_workers=1, timeout_sec=120.0) as builder:
        _check_built(builder.build([workload])[0])
        (worker,) = _worker_pids() - before
        # Stopped, it cannot finish the build before it is killed.
        os.kill(worker, signal.SIGSTOP)
        results = []
        thread = threading.Thread(target=lambda: results.extend(builder.build([workload] * 2)))
        thread.start()
        time.sleep(0.5)
        assert not results
        os.kill(worker, signal.SIGKILL)
        thread.join(timeout=120)
        assert not thread.is_alive()

        killed, next_one = results
        assert killed.library is None and "ChildProcessError" in killed.error
        _check_built(next_one)
        assert (_worker_pids() - before).isdisjoint({worker})


def test_a_timeout_costs_its_build_only(target, workload):
    # 512 unrolled copies of an unrolled loop nest: LLVM works on it for long.
    large = Schedule(workloads.dense_workload(2048))
    for loop in large.get_loops(large.get_sblock("matmul")):
        large.unroll(loop)
    with ProgramBuilder(target, num_workers=1, timeout_sec=3.0) as builder:
        _check_built(builder.build([workload])[0])
        slow, next_one = builder.build([large.mod, workload])
        assert slow.library is None and "TimeoutError" in slow.error
        _check_built(next_one)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="workers are found in /proc")
def test_workers_that_grew_too_large_are_replaced(target, workload):
    before = _worker_pids()
    limits = (1, 2**40)  # bytes: any worker is too large, none is
    for limit in limits:
        with ProgramBuilder(
            target, num_workers=1, timeout_sec=120.0, max_worker_bytes=limit
        ) as builder:
            _check_built(builder.build([workload])[0])
            first = _worker_pids() - before
            _check_built(builder.build([workload])[0])
            assert (_worker_pids() - before != first) == (limit == limits[0])


def test_closing_ends_the_workers_and_deletes_the_libraries(target, workload):
    before = _worker_pids()
    with ProgramBuilder(target, num_workers=1, timeout_sec=120.0) as builder:
        (result,) = builder.build([workload])
        assert result.library.exists()
    assert not result.library.exists()
    deadline = time.monotonic() + 30
    while _worker_pids() - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _worker_pids() - before


def test_a_program_is_the_module_whose_weights_have_its_own_layout(target, tmp_path, device):
    """RewriteLayout's preprocessing is left out: the kernel takes weights as it wants them."""
    task = workloads.conv_task(workloads.lowered(workloads.conv_model(), target))
    packed = next(
        program
        for program in workloads.sampled_programs(task, 8, target=target)
        if "layout_rewrite" in str(_postprocessed(program, task, target).mod)
    )
    schedule = _postprocessed(packed, task, target)
    build_program(schedule.mod, target, str(tmp_path / "packed.so"))
    shapes = [
        (str(info.dtype), tuple(int(extent) for extent in info.shape))
        for info in workloads.arguments(schedule.mod)
    ]
    samples_ms = device.time_kernel(tmp_path / "packed.so", "main", shapes, min_repeat_ms=1)
    assert len(samples_ms) == 3 and min(samples_ms) > 0


def _postprocessed(program, task, target):
    from cprune_tf.compiler import tvm_internals

    schedule = Schedule(task.mod)
    program.trace.apply_to_schedule(schedule, remove_postproc=True)
    schedule.enter_postproc()
    context = tvm_internals.LightTuneContext(task.mod, target, None, num_threads=1, seed=1)
    assert all(postproc.apply(schedule) for postproc in context.space_generator.postprocs)
    return schedule


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="workers are found in /proc")
def test_the_memory_of_the_parent_is_not_taken_for_a_workers(target, workload):
    before = _worker_pids()
    ballast = b"\x01" * 2**30  # more than a worker may hold
    with ProgramBuilder(
        target, num_workers=1, timeout_sec=120.0, max_worker_bytes=2**30
    ) as builder:
        _check_built(builder.build([workload])[0])
        first = _worker_pids() - before
        _check_built(builder.build([workload])[0])
        assert _worker_pids() - before == first
    del ballast
