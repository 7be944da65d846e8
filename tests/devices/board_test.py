"""The emulated aarch64 board: real cross-compiled code, both runtimes, tuning over RPC.

Its latencies mean nothing: only that they are called emulated, and never compared.
"""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest

from cprune_tf import litert, sparse
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.config import MeasureConfig, TuningConfig
from cprune_tf.cross_check import check_deployments
from cprune_tf.deployment import Deployment
from cprune_tf.devices import DeviceError, ModelFile, open_device
from cprune_tf.devices.targets import cpu_features, cpu_name

from . import servers

QUICK = MeasureConfig(warmup_ms=1.0, min_samples=3, max_time_sec=0.1, stable_fraction=0.9)
FEW = TuningConfig(trials_per_task=4, trials_per_round=4, population_size=8)


@pytest.fixture(scope="module")
def board(rig):
    with (
        servers.running(python=rig.board_python, environment=rig.environment()) as server,
        open_device(f"rpc://127.0.0.1:{server.port}?reconnect_sec=5") as device,
    ):
        yield device


def small_model():
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(x)
    # So little is left of these weights that the pattern lowering is the fastest.
    patterns = keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="patterns")
    x = keras.layers.Flatten()(patterns(x))
    kernel = np.asarray(patterns.kernel)
    kept = sparse.project(
        kernel, sparse.natural_patterns([kernel], 4, 2), 8, block_size=4, balanced=True
    )
    patterns.kernel.assign(kernel * kept.mask())
    return keras.Model(image, keras.layers.Dense(4, activation="softmax", name="head")(x))


@pytest.fixture(scope="module")
def deployment(board, tmp_path_factory):
    """A model tuned on the board, with its library and `.tflite`."""
    directory = tmp_path_factory.mktemp("board")
    model = small_model()
    with CompilerSession(board, directory / "tuning", FEW, num_threads=1, seed=0) as session:
        lowered = session.lower(model)
        summary = session.tune(lowered, FEW.trials_per_task)
        assert summary.num_trials > summary.num_failed == 0
        assert "pattern" in {row.lowering for row in session.task_table(lowered)}
        session.build(lowered, directory / "model.so")
    (directory / "model.tflite").write_bytes(litert.convert(model))
    return Deployment("small", model, directory / "model.so", directory / "model.tflite")


def test_it_describes_itself_and_gets_code_for_its_processor(board):
    info = board.info()
    assert (info.kind, info.abi, info.emulated) == ("rpc", "aarch64", True)
    assert [cpu_name(cluster) for cluster in info.clusters] == ["cortex-a76"]
    assert (cpu_features(info).dotprod, cpu_features(info).fp16) == (True, True)
    target = board.target(1)
    assert (target["mtriple"], target["mcpu"]) == ("aarch64-linux-gnu", "cortex-a76")
    assert "+dotprod" in target["mattr"]
    assert "emulated" in str(info)


def test_both_runtimes_agree_with_keras_there(board, deployment):
    rng = np.random.default_rng(0)
    images = rng.random((16, 8, 8, 3), dtype=np.float32)
    labels = deployment.keras_model(images).numpy().argmax(-1)
    checked = check_deployments(
        (deployment,), images, labels, board, measure=QUICK, thread_counts=(1,)
    )
    for runtime in ("tvm", "litert"):
        result = checked.result("small", runtime)
        assert result.max_abs_error <= 1e-4
        assert result.accuracy == 1.0
        assert "emulated" in str(result.latencies[0])
    with open(deployment.tvm_library, "rb") as file:
        assert file.read(20)[18] == 183  # ELF's number for aarch64


def test_emulated_latencies_are_never_compared(board, deployment):
    import dataclasses

    images = np.zeros((2, 8, 8, 3), np.float32)
    twin = dataclasses.replace(deployment, name="twin")
    checked = check_deployments(
        (deployment, twin), images, np.zeros(2, int), board, measure=QUICK, thread_counts=(1,)
    )
    assert checked.speedups == ()
    assert any("emulated" in problem for problem in checked.problems)
    assert not any("slower" in problem or "unsteady" in problem for problem in checked.problems)


def test_a_cross_compiler_links_what_runs_there(board, deployment, tmp_path):
    """Another library of the same programs: nothing is tuned again."""
    command = f"{sys.executable} -m ziglang cc -target aarch64-linux-gnu"
    name = f"{board._links[0]._name}&linker={command}"
    board.close()  # one session at a time
    tuning = deployment.tvm_library.parent / "tuning"
    library = tmp_path / "linked.so"
    with open_device(name) as device:
        with CompilerSession(device, tuning, FEW, num_threads=1, seed=0) as session:
            session.build(session.lower(deployment.keras_model), library)
        x = np.random.default_rng(0).random((4, 8, 8, 3), dtype=np.float32)
        outputs = device.run_model(ModelFile("linked", "tvm", library), x)[0]
    np.testing.assert_allclose(outputs, deployment.keras_model(x).numpy(), atol=1e-4)


def test_cores_can_be_chosen_there(board, deployment):
    first = board.info().clusters[0].cores[0]
    name = board._links[0]._name
    board.close()  # one session at a time
    with open_device(name, str(first)) as pinned:
        latency = pinned.time_models(deployment.files(), 1, QUICK)[0]
        assert latency.conditions.cores == (first,)
        assert f"cores {first}" in str(latency)
        with pytest.raises(DeviceError, match="cores of that kind"):
            pinned.target(2)
