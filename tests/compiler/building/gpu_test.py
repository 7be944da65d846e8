"""Schedules for GPUs: found, read, transferred and compiled without one, run where there is one."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
import sys

import numpy as np
import pytest
import tvm
from tvm.s_tir import Schedule

from cprune_tf.compiler.building import gpu_toolchain
from cprune_tf.compiler.building.builder import build_program
from cprune_tf.compiler.building.gpu_toolchain import ToolchainError, check_toolchain
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.executable import build_library
from cprune_tf.compiler.roofline import require_cpu
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.structure import program_structure
from cprune_tf.compiler.transfer import Transfer
from cprune_tf.compiler.tuning.default_schedule import default_schedule
from cprune_tf.compiler.tuning.seeding import seed_schedules
from cprune_tf.compiler.tuning.warm_start import open_warm_start
from cprune_tf.config import MeasureConfig
from cprune_tf.devices import DeviceError, ModelFile, open_device
from cprune_tf.devices.agent.accelerators import Accelerator
from cprune_tf.devices.local import LocalDevice

from .. import workloads

T4 = Accelerator("cuda", "Tesla T4", "sm_75", 1024, 32, 49152, 15 << 30)
CUDA = tvm.target.Target(T4.target({"kind": "llvm", "num-cores": 1}))
CUBIN_MACHINE = 190  # in an ELF header


@pytest.fixture(scope="module")
def conv():
    """A convolution of 64 filters with bias and relu."""
    model = workloads.conv_model(64, 64, size=16)
    return workloads.conv_task(workloads.lowered(model, CUDA))


@pytest.fixture(scope="module")
def programs(conv):
    return workloads.sampled_programs(conv, 12, target=CUDA)


@pytest.fixture(scope="module")
def tiny():
    """Convolutions, a residual addition, pooling, a product and a softmax."""
    return workloads.lowered(workloads.tiny_resnet(), CUDA)


@pytest.fixture(scope="module")
def toolchain():
    """Skips where this machine cannot compile CUDA."""
    try:
        check_toolchain(CUDA)
    except ToolchainError as error:
        pytest.skip(str(error))


class PretendedGpu(LocalDevice):
    """This machine, said to have a T4 on which every program takes another time."""

    def __init__(self):
        super().__init__(gpu="cuda")
        self.num_timed = 0

    def accelerator(self):
        return T4

    def info(self):
        with open_device("local") as plain:
            return plain.info()

    def time_kernel(self, library_path, *_arguments, **_options):
        assert cubins(pathlib.Path(library_path)) == 1
        self.num_timed += 1
        return (1.0 + 0.618 * self.num_timed % 1,)


def threads(mod):
    """What loops are bound to."""
    return set(re.findall(r"(blockIdx|threadIdx)\.x", mod.script()))


def replayed(program, mod):
    schedule = Schedule(mod)
    program.trace.apply_to_schedule(schedule, remove_postproc=False)
    return schedule.mod


def cubins(path):
    """How many GPU binaries are inside a library."""
    data = path.read_bytes()
    starts = [found.start() for found in re.finditer(b"\x7fELF", data)]
    machines = [int.from_bytes(data[start + 18 : start + 20], "little") for start in starts]
    return machines.count(CUBIN_MACHINE)


def test_sampled_programs_are_bound_to_threads(conv, programs):
    assert len(programs) >= 8
    for program in programs:
        assert threads(replayed(program, conv.mod)) == {"blockIdx", "threadIdx"}


def test_a_programs_structure_is_its_filter_tiles_though_threads_fuse_axes(conv, programs):
    """SSSRRSRS: five factors for each spatial axis, three for each reduction axis."""
    for program in programs:
        structure = program_structure(program, conv.mod)
        filters, *reduction = workloads.tiles(program)[3:7]
        assert len(filters) == 5 and [len(factors) for factors in reduction] == [3, 3, 3]
        assert [n for n in structure.compute if n > 1] == [n for n in filters if n > 1]
        assert math.prod(structure.compute) == math.prod(structure.epilogue) == 64
        assert [math.prod(factors) for factors in structure.reduction] == [3, 3, 64]
        assert 64 % structure.inner == 0


@pytest.mark.parametrize(("channels", "filters"), [(64, 48), (48, 64), (48, 32)])
def test_programs_transfer_to_pruned_shapes(programs, channels, filters):
    pruned = workloads.conv_task(
        workloads.lowered(workloads.conv_model(channels, filters, size=16), CUDA)
    )
    moved = Transfer(CUDA).apply(programs, pruned.mod, 4)
    assert len(moved) >= 2
    for program in moved:
        assert threads(program.schedule.mod) == {"blockIdx", "threadIdx"}
        read = program_structure(
            dataclasses.replace(programs[0], trace=program.schedule.trace), pruned.mod
        )
        assert math.prod(read.compute) == filters


def test_every_task_has_a_default_schedule_that_its_trace_repeats(tiny):
    for task in tiny.tasks:
        schedule = default_schedule(task.mod, CUDA)
        assert schedule is not None, task.name
        assert threads(schedule.mod) == {"blockIdx", "threadIdx"}, task.name
        again = Schedule(task.mod)
        schedule.trace.apply_to_schedule(again, remove_postproc=False)
        tvm.ir.assert_structural_equal(again.mod, schedule.mod)


def test_every_task_has_a_space_whose_programs_are_bound_to_threads(tiny):
    for task in tiny.tasks:
        for program in workloads.sampled_programs(task, 2, target=CUDA):
            assert "threadIdx" in threads(replayed(program, task.mod)), task.name
            program_structure(program, task.mod)


def test_what_is_for_cpus_only_is_left_out(conv, tiny):
    assert seed_schedules(conv.mod, CUDA, 4, seed=0) == []
    assert all(task.lowerings == (task,) for task in tiny.tasks)
    assert "layout_free_buffers" not in conv.mod.script()
    assert open_warm_start("shipped", CUDA).nearest(conv.mod, 4) == ()


def test_a_program_compiles(toolchain, conv, programs, tmp_path):
    mod = replayed(programs[0], conv.mod)
    build_program(mod, CUDA, str(tmp_path / "conv.so"))
    assert cubins(tmp_path / "conv.so") == 1


def test_a_default_schedule_compiles(toolchain, tiny, tmp_path):
    for number, task in enumerate(tiny.tasks):
        path = tmp_path / f"{number}.so"
        build_program(default_schedule(task.mod, CUDA).mod, CUDA, str(path))
        assert cubins(path) == 1, task.name


def test_a_model_compiles(toolchain, tiny, tmp_path):
    database = ProgramDatabase(tmp_path / "tuning")
    for task in tiny.tasks:
        trace = default_schedule(task.mod, CUDA).trace
        if "conv2d" in task.name:
            trace = workloads.sampled_programs(task, 1, target=CUDA)[0].trace
        database.add(task.mod, trace, 1.0, CUDA, workloads.arguments(task.mod))
    build_library(tiny, database, tmp_path / "tiny.so")
    assert cubins(tmp_path / "tiny.so") == 1


def test_opencl_compiles_to_source_for_the_devices_own_compiler(conv, tmp_path):
    opencl = dataclasses.replace(T4, kind="opencl", arch="", max_threads_per_block=256)
    target = tvm.target.Target(opencl.target({"kind": "llvm", "num-cores": 1}))
    check_toolchain(target)
    program = workloads.sampled_programs(conv, 1, target=target)[0]
    build_program(replayed(program, conv.mod), target, str(tmp_path / "conv.so"))
    assert b"__kernel void main_kernel" in (tmp_path / "conv.so").read_bytes()


def test_a_model_is_tuned_priced_and_built_on_a_device_that_only_pretends(toolchain, tmp_path):
    """All of the compiler's work, by its build processes, with invented latencies."""
    model, pruned = workloads.conv_model(16, 32), workloads.conv_model(16, 24)
    config = dataclasses.replace(workloads.FEW_TRIALS, trials_per_task=12)
    with (
        PretendedGpu() as device,
        CompilerSession(device, tmp_path / "tuning", config, num_threads=1, seed=3) as session,
    ):
        assert session.lanes == 32
        lowered, candidate = session.lower(model), session.lower(pruned)
        summary = session.tune(lowered, config.trials_per_task)
        assert summary.num_trials > config.trials_per_round and summary.num_failed == 0
        assert session.price(candidate, lowered) > 0
        # Whichever program was said to be fastest: of a default schedule, which may compute a
        # convolution as a product, the epilogue's factors are known only.
        (row,) = session.task_table(lowered)
        assert row.structure.filters == 32 and row.structure.epilogue
        assert 1 <= row.structure.step <= 32 and 32 % row.structure.inner == 0
        session.build(lowered, tmp_path / "conv.so")
    assert cubins(tmp_path / "conv.so") == 1


def test_a_missing_compiler_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(ToolchainError, match=r"sm_75 cannot be compiled.*cprune_tf\[cuda\]"):
        check_toolchain(CUDA)


def test_a_compiler_without_the_kind_is_named():
    if tvm.get_global_func("target.build.vulkan", allow_missing=True) is not None:
        pytest.skip("TVM on this machine compiles for Vulkan")
    vulkan = dataclasses.replace(T4, kind="vulkan", arch="")
    with pytest.raises(ToolchainError, match=r"built without vulkan.*USE_VULKAN=ON"):
        check_toolchain(tvm.target.Target(vulkan.target({"kind": "llvm"})))


def test_the_toolchain_of_the_wheels_is_used_unless_there_is_another(monkeypatch, tmp_path):
    include = tmp_path / "with space" / "nvidia" / "cu13" / "include"
    include.mkdir(parents=True)
    (include / "cuda_runtime.h").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "with space"))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("TVM_CUDA_NVRTC_EXTRA_OPTS", "--ftz=false")
    with gpu_toolchain.toolchain(CUDA):
        assert os.environ["CUDA_PATH"] == str(include.parent)
        options = os.environ["TVM_CUDA_NVRTC_EXTRA_OPTS"]
        assert options == f"--ftz=false '-I{include / 'cccl'}'"
    assert "CUDA_PATH" not in os.environ
    assert os.environ["TVM_CUDA_NVRTC_EXTRA_OPTS"] == "--ftz=false"
    monkeypatch.setenv("CUDA_PATH", "/somewhere/else")
    with gpu_toolchain.toolchain(CUDA):
        assert os.environ["CUDA_PATH"] == "/somewhere/else"


def test_a_tuned_model_computes_on_the_gpu_what_keras_does(gpu, toolchain, tmp_path):
    model = workloads.tiny_resnet()
    images = np.random.default_rng(3).normal(size=(6, 8, 8, 4)).astype(np.float32)
    config = workloads.FEW_TRIALS
    with CompilerSession(gpu, tmp_path / "tuning", config, num_threads=1, seed=3) as session:
        assert session.lanes == 32
        lowered = session.lower(model)
        session.tune(lowered, config.trials_per_task)
        session.build(lowered, tmp_path / "tiny.so")
    file = ModelFile("tiny", "tvm", str(tmp_path / "tiny.so"))
    (outputs,) = gpu.run_model(file, images, 1)
    expected = model(images, training=False).numpy()
    assert workloads.relative_error(outputs, expected) < 1e-4
    quick = MeasureConfig(warmup_ms=5.0, min_samples=10, max_time_sec=0.3, stable_fraction=0.2)
    (latency,) = gpu.time_models([file], 1, quick)
    assert latency.median_ms > 0
    assert latency.conditions.processor.endswith("(cuda)")
    with pytest.raises(DeviceError, match="a roofline is known for CPUs only"):
        require_cpu(gpu)
