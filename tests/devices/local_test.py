from __future__ import annotations

import os
import pathlib
import platform
import shutil

import numpy as np
import pytest

from cprune_tf.config import MeasureConfig
from cprune_tf.devices import (
    DeviceCrashError,
    DeviceError,
    DeviceNameError,
    DeviceTimeoutError,
    ModelFile,
    local,
    open_device,
)
from cprune_tf.devices.agent import description
from cprune_tf.devices.agent.environment import process_environment
from cprune_tf.devices.process import WorkerProcess
from cprune_tf.devices.targets import generic_x86_cpu

from . import libraries

QUICK = MeasureConfig(warmup_ms=5.0, min_samples=10, max_time_sec=0.3, stable_fraction=0.2)
HERE = pathlib.Path(__file__).parent

two_cores = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="needs two cores to run two threads on"
)


@pytest.fixture(scope="module")
def child():
    """The device's process, asked for other functions than a device's own."""
    paths = os.pathsep.join((str(HERE.parent.parent), str(HERE)))
    with WorkerProcess({**process_environment(2), "PYTHONPATH": paths}) as worker:
        yield worker


# --- what it is


def test_info_tells_what_this_machine_is(device):
    info = device.info()
    assert info.kind == "local"
    assert info.abi == os.uname().machine
    assert info.num_cores == len(os.sched_getaffinity(0))
    assert info.memory_bytes is not None and info.memory_bytes > 2**28
    assert not info.emulated
    assert info.runtimes["tvm"].startswith("0.")
    assert info.runtimes["litert"].startswith(("ai-edge-litert ", "tflite-runtime ", "tensorflow "))
    assert info.cpu_name in str(info)


def test_target_is_one_that_tvm_takes(device):
    import tvm

    target = tvm.target.Target(device.target(num_threads=1))
    assert target.attrs["num-cores"] == 1
    known = tvm.get_global_func("target.llvm_get_cpu_archlist")(target)
    assert target.attrs["mcpu"] in list(known)


def test_target_uses_no_vector_extension_that_this_machine_lacks(device):
    import tvm

    features = tvm.get_global_func("target.llvm_get_cpu_features")(
        tvm.target.Target(device.target())
    )
    for name in ("avx2", "avx512f", "fma"):
        assert (name in list(features)) <= (name in device.info().features)
        if device.info().abi == "x86_64":  # and all that it has
            assert (name in list(features)) == (name in device.info().features)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ((), "x86-64"),
        (("ssse3", "sse4_1", "sse4_2", "popcnt"), "x86-64-v2"),
        (("avx2", "fma", "f16c", "bmi2", "popcnt"), "x86-64-v3"),
        (("avx2", "fma", "f16c", "bmi2", "avx512f"), "x86-64-v3"),
        (("avx2", "fma", "f16c", "bmi2", "avx512f", "avx512bw", "avx512vl"), "x86-64-v4"),
    ],
)
def test_generic_x86_cpu(features, expected):
    assert generic_x86_cpu(frozenset(features)) == expected


def test_host_cpu_is_detected():
    assert local.host_cpu() not in ("", "generic")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86 processors")
def test_another_cpu_that_this_machine_can_stand_in_for(monkeypatch):
    with open_device("local?cpu=x86-64-v2") as level:
        assert level.target()["mcpu"] == "x86-64-v2"
    features = description.cpu_features() - {"avx512f"}
    monkeypatch.setattr(local, "cpu_features", lambda: features)
    with (
        open_device("local?cpu=x86-64-v4") as level,
        pytest.raises(DeviceError, match=r"'x86-64-v4', whose code needs .*avx512f.*this machine"),
    ):
        level.target()
    with (
        open_device("local?cpu=cortex-a53") as board,
        pytest.raises(DeviceError, match="LLVM knows no such processor"),
    ):
        board.target()


@pytest.mark.parametrize("num_threads", [0, -1, 100_000])
def test_impossible_numbers_of_threads_are_refused_at_once(device, native_library, num_threads):
    with pytest.raises(DeviceError, match=rf"{num_threads} threads were asked for.*has \d+ cores"):
        device.time_kernel(native_library, "nothing", [], num_threads=num_threads)
    with pytest.raises(DeviceError, match="threads were asked for"):
        device.target(num_threads)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lokal", "Unknown device 'lokal'; expected 'local', 'rpc://"),
        ("rpc://", "names no host"),
        ("rpc://board:port", "Port could not be cast"),
        ("rpc://board:9090?kye=secret", "unknown option 'kye'"),
        ("rpc://board:9090?reconnect_sec=soon", "could not convert string to float: 'soon'"),
        ("tracker://desk:9190", "names no key"),
        ("local?key=secret", "unknown option 'key', not one of cpu, gpu, linker"),
        ("local?linker", "no value, expected linker=VALUE"),
        ("local?linker=no-such-cc%20-s", "no program 'no-such-cc' for .*aarch64-linux-gnu-gcc"),
        ("rpc://board:9090?linker=no-such-c++", r"no program 'no-such-c\+\+' for"),
        ("adb:?linker=/no/such/clang", "no program '/no/such/clang' for"),
    ],
)
def test_other_devices_are_refused_clearly(name, reason):
    with pytest.raises(DeviceNameError, match=reason):
        open_device(name)


@pytest.mark.parametrize("query", ["sh -e", "sh%20-e"])
def test_a_linker_is_found_in_path_and_keeps_its_arguments(query):
    with open_device(f"local?linker={query}") as opened:
        assert opened.linker == f"{shutil.which('sh')} -e"


def test_cores_are_chosen_by_number_and_refused_by_name():
    first = min(os.sched_getaffinity(0))
    with open_device("local", str(first)) as one:
        assert one.core_ids() == (first,)
        with pytest.raises(DeviceError, match="1 cores of that kind"):
            one.target(2)
    with (
        open_device("local", "medium") as none,
        pytest.raises(DeviceError, match=r"cores is 'medium'; this device has .*'0-3' or '4,5'"),
    ):
        none.core_ids()


# --- kernels


def test_time_kernel_times_a_compiled_kernel(device, tmp_path):
    from tvm import te

    a = te.placeholder((64, 64), "float32", name="a")
    b = te.compute((64, 64), lambda i, j: a[i, j] * 2.0, name="b")
    library = libraries.export(te.create_prim_func([a, b]), tmp_path / "kernel.so")
    samples = device.time_kernel(
        library, "main", [("float32", (64, 64))] * 2, repeat=5, number=2, min_repeat_ms=1
    )
    assert len(samples) == 5
    assert all(sample > 0 for sample in samples)


@two_cores
def test_the_number_of_threads_takes_effect_up_and_down(device, native_library):
    def num_tasks(num_threads):
        samples = device.time_kernel(
            native_library, "num_tasks", [], num_threads=num_threads, min_repeat_ms=0, number=1
        )
        return min(samples)

    first, second, third = num_tasks(1), num_tasks(2), num_tasks(1)
    assert second > 1.5 * max(first, third)


@pytest.mark.parametrize(
    ("function", "error", "reason"),
    [
        ("abort", DeviceCrashError, "SIGABRT"),
        ("segfault", DeviceCrashError, "SIGSEGV"),
        ("hang", DeviceTimeoutError, r"did not end within 1 s"),
        ("missing", DeviceError, "missing"),
    ],
)
def test_a_bad_kernel_costs_one_call(device, native_library, function, error, reason):
    with pytest.raises(error, match=reason):
        device.time_kernel(native_library, function, [], timeout_sec=1.0, min_repeat_ms=0)
    assert len(device.time_kernel(native_library, "nothing", [], min_repeat_ms=0)) == 3


def on_device(child, function, *args, **kwargs):
    return child.call(
        f"cprune_tf.devices.agent.on_device:{function}", *args, timeout_sec=60, **kwargs
    )


def test_libraries_are_unloaded(child, native_library, dense_library, tmp_path):
    kernels = shutil.copy(native_library, tmp_path / "kernels.so")
    model = shutil.copy(dense_library, tmp_path / "model.so")
    on_device(child, "time_kernel", str(kernels), "nothing", [], 1, 1, 1, 0)
    on_device(child, "run_tvm", str(model), [np.ones((3, 16), np.float32)], 1)
    on_device(child, "time_models", [("tvm", str(model), ())], 1, 1.0, 2, 0.1, 0.1)
    for inputs in ([], [np.ones((3, 17), np.float32)]):
        with pytest.raises(DeviceError):
            on_device(child, "run_tvm", str(model), inputs, 1)
    assert str(tmp_path) not in pathlib.Path(f"/proc/{child.pid}/maps").read_text()


def test_wrong_arguments_are_an_error_not_a_crash(device, tmp_path):
    from tvm import te

    a = te.placeholder((8,), "float32", name="a")
    library = libraries.export(
        te.create_prim_func([a, te.compute((8,), lambda i: a[i] + 1.0)]), tmp_path / "kernel.so"
    )
    with pytest.raises(DeviceError, match="time_kernel failed"):
        device.time_kernel(library, "main", [("float32", (9,)), ("float32", (8,))])
    with pytest.raises(DeviceError, match="time_kernel failed"):
        device.time_kernel(library, "main", [("float32", (8,))])


@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF" + bytes(200)])
def test_corrupted_files_are_an_error(device, tmp_path, content):
    path = tmp_path / "bad.so"
    path.write_bytes(content)
    with pytest.raises(DeviceError, match=r"bad\.so"):
        device.time_kernel(path, "main", [])
    for runtime in ("tvm", "litert"):
        with pytest.raises(DeviceError, match=r"bad\.so is not a"):
            device.run_model(ModelFile("bad", runtime, path), np.zeros((1, 4), np.float32))
        with pytest.raises(DeviceError, match=r"bad\.so is not a"):
            device.time_models([ModelFile("bad", runtime, path)], 1, QUICK)


def test_truncated_library_is_an_error_or_a_crash_but_never_the_end(
    device, dense_library, tmp_path
):
    path = tmp_path / "truncated.so"
    content = dense_library.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DeviceError):
        device.run_model(ModelFile("m", "tvm", path), np.zeros((1, 16), np.float32))
    device.run_model(ModelFile("m", "tvm", dense_library), np.zeros((1, 16), np.float32))


def test_missing_files_are_told_before_anything_runs(device, tmp_path):
    with pytest.raises(DeviceError, match=r"no file .*absent\.so"):
        device.time_kernel(tmp_path / "absent.so", "main", [])
    with pytest.raises(DeviceError, match=r"no file .*absent\.so"):
        device.run_model(ModelFile("m", "tvm", tmp_path / "absent.so"), np.zeros((1, 4)))


# --- models


def test_a_tvm_model_runs_on_all_samples(device, dense_library, dense_weights):
    inputs = np.random.default_rng(2).normal(size=(33, 16)).astype(np.float32)
    (outputs,) = device.run_model(ModelFile("m", "tvm", dense_library), inputs)
    np.testing.assert_allclose(outputs, np.maximum(inputs @ dense_weights, 0), atol=1e-5)


def test_a_tvm_model_with_a_tuple_of_outputs(device, dense_weights, tmp_path):
    module = libraries.dense_module(16, 4, weights=dense_weights, two_outputs=True)
    library = libraries.export(module, tmp_path / "two.so")
    inputs = np.random.default_rng(2).normal(size=(5, 16)).astype(np.float32)
    once, twice = device.run_model(ModelFile("m", "tvm", library), [inputs])
    assert once.shape == (5, 4)
    np.testing.assert_allclose(twice, 2 * once)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_library_written_over_another_is_the_one_that_runs(device, tmp_path, in_place):
    path, other = tmp_path / "model.so", tmp_path / "other.so"
    outputs = []
    for factor in (1.0, 3.0):
        weights = np.full((2, 2), factor, np.float32)
        libraries.export(libraries.dense_module(2, 2, weights=weights), other)
        if in_place:
            path.write_bytes(other.read_bytes())
        else:
            os.replace(other, path)
        file = ModelFile("m", "tvm", path)
        assert device.time_models([file], 1, QUICK)[0].count >= 1
        outputs.append(device.run_model(file, np.ones((1, 2), np.float32))[0][0, 0])
    assert outputs == [2.0, 6.0]


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (np.zeros((2, 15), np.float32), r"15 vs\. 16"),
        (np.zeros((2, 16), np.int32), "float32"),
        (np.zeros((0, 16), np.float32), "at least one"),
        ([np.zeros((2, 16), np.float32)] * 2, "has 1 inputs, but 2 arrays were passed"),
        ([np.zeros((2, 16), np.float32), np.zeros((3, 16), np.float32)], "same number of samples"),
    ],
)
def test_wrong_inputs_are_an_error_not_a_crash(device, dense_library, inputs, reason):
    with pytest.raises(DeviceError, match=reason):
        device.run_model(ModelFile("m", "tvm", dense_library), inputs)


def test_both_runtimes_are_timed_in_one_run(device, dense_library, conv_tflite):
    files = [ModelFile("d", "tvm", dense_library), ModelFile("c", "litert", conv_tflite)]
    latencies = device.time_models(files, 1, QUICK)
    assert [latency.num_threads for latency in latencies] == [1, 1]
    assert all(latency.count >= QUICK.min_samples for latency in latencies)
    assert latencies[0].median_ms < latencies[1].median_ms  # 128 against 4.7 million operations


def test_input_shapes_may_be_given(device, dense_library):
    given = ModelFile("m", "tvm", dense_library, inputs=(("float32", (1, 16)),))
    wrong = ModelFile("m", "tvm", dense_library, inputs=(("float32", (1, 17)),))
    assert device.time_models([given], 1, QUICK)[0].count >= 1
    with pytest.raises(DeviceError, match=r"17 vs\. 16"):
        device.time_models([wrong], 1, QUICK)


def test_nothing_to_time_is_no_error(device):
    assert device.time_models([], 1, QUICK) == ()


# --- the process


@two_cores
@pytest.mark.parametrize("num_threads", [1, 2])
def test_litert_gets_its_threads(child, conv_tflite, num_threads):
    count = child.call(
        "child_functions:num_threads_of_litert", str(conv_tflite), num_threads, timeout_sec=60
    )
    assert count == num_threads


@two_cores
@pytest.mark.parametrize("num_threads", [1, 2])
def test_tvm_pins_no_thread_that_litert_would_inherit_the_core_of(child, num_threads):
    cores = sorted(os.sched_getaffinity(0))
    affinities = child.call("child_functions:affinities_after_tvm", num_threads, timeout_sec=60)
    assert all(affinity == cores for affinity in affinities)


@two_cores
def test_tvm_leaves_no_thread_spinning_beside_what_runs_next(child, native_library):
    share = child.call(
        "child_functions:share_of_a_core_used_after_a_parallel_loop",
        str(native_library),
        timeout_sec=60,
    )
    assert share < 0.2  # TVM's default: a whole core for 0.15 of 0.2 s


def test_idle_means_that_no_thread_spins(child):
    assert child.call("child_functions:wait_until_idle_beside_a_busy_thread", 0.2, timeout_sec=60)


def test_the_process_holds_neither_tensorflow_nor_the_compiler(child, conv_tflite):
    child.call("child_functions:num_threads_of_litert", str(conv_tflite), 1, timeout_sec=60)
    child.call("child_functions:affinities_after_tvm", 1, timeout_sec=60)
    modules = child.call("child_functions:modules", timeout_sec=60)
    assert "tvm" in modules
    for absent in ("tensorflow", "keras", "tvm.relax", "ml_collections", "rich"):
        assert absent not in modules, f"{absent} is not what a board has"


def test_a_closed_device_works_again(native_library):
    with open_device("local") as device:
        device.time_kernel(native_library, "nothing", [], min_repeat_ms=0)
    assert len(device.time_kernel(native_library, "nothing", [], min_repeat_ms=0)) == 3
    device.close()
