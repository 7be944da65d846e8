from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from tvm import relax

from cprune_tf.compiler import executable
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.executable import UntunedTaskError, build_library, schedule_model
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.devices import ModelFile
from tests.pipeline.bare_site import bare_site

from . import workloads

SAMPLES = 6


@pytest.fixture(scope="module")
def library(tuned, tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "deploy" / "tiny.so"
    tuned.session.build(tuned.lowered, path)
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).normal(size=(SAMPLES, 8, 8, 4)).astype(np.float32)


def test_the_library_is_all_that_is_written(library):
    assert [path.name for path in library.parent.iterdir()] == ["tiny.so"]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_tuned_library_computes_what_keras_does(tuned, library, images, device, num_threads):
    if num_threads > device.info().num_cores:
        pytest.skip(f"this machine has {device.info().num_cores} core(s)")
    expected = tuned.model(images, training=False).numpy()
    assert np.ptp(expected, axis=0).min() > 0.01  # the images are told apart
    (outputs,) = device.run_model(ModelFile("tiny", "tvm", str(library)), images, num_threads)
    assert workloads.relative_error(outputs, expected) < 1e-4


def test_weights_are_taken_from_the_lowered_model(tuned, images, device, tmp_path):
    """The same programs, other weights: training changes no workload."""
    model = workloads.tiny_resnet()
    for variable in model.trainable_variables:
        variable.assign(np.asarray(variable) * 1.1)
    expected = model(images, training=False).numpy()
    before = tuned.model(images, training=False).numpy()
    assert workloads.relative_error(before, expected) > 1e-2
    count = len(tuned.session.database)
    tuned.session.build(tuned.session.lower(model), tmp_path / "other.so")
    assert len(tuned.session.database) == count
    (outputs,) = device.run_model(ModelFile("o", "tvm", str(tmp_path / "other.so")), images, 1)
    assert workloads.relative_error(outputs, expected) < 1e-4


def test_the_five_lines_of_the_docstring_run_it_in_a_fresh_process(tuned, library, tmp_path):
    lines = re.findall(r"^    (.+)$", executable.__doc__, flags=re.MULTILINE)
    assert len(lines) == 5
    script = "\n".join(lines).replace('"final.so"', repr(str(library)))
    # The tiny model's images instead of Fashion-MNIST's, and every digit of the result.
    script = script.replace("(1, 28, 28, 1)", "(1, 8, 8, 4)").replace(
        "print(vm", "print(*map(float.hex, map(float, vm"
    )
    script = script.replace(".numpy())", ".numpy()[0])))")
    site = bare_site(tmp_path / "site", "apache-tvm", "numpy")  # nothing else is needed
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(site)!r})\n{script}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs = np.array([float.fromhex(word) for word in done.stdout.split()])
    expected = tuned.model(np.zeros((1, 8, 8, 4), "float32"), training=False).numpy()[0]
    assert workloads.relative_error(outputs, expected) < 1e-4


def test_a_run_makes_no_tuples_of_weights(tuned):
    """They are constants, laid out; a tuple of them would be made anew in every run."""
    main = schedule_model(tuned.lowered, tuned.session.database)["main"]
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    assert len(bindings) >= len(tuned.lowered.tasks)
    tuples = (relax.Tuple, relax.TupleGetItem)
    assert not [binding for binding in bindings if isinstance(binding.value, tuples)]


def test_a_model_with_untuned_tasks_is_refused_with_their_names(tuned, tmp_path):
    with pytest.raises(UntunedTaskError) as caught:
        build_library(tuned.lowered, ProgramDatabase(tmp_path / "empty"), tmp_path / "no.so")
    message = str(caught.value)
    assert f"{len(tuned.lowered.tasks)} of {len(tuned.lowered.tasks)} tasks" in message
    assert all(task.name in message for task in tuned.lowered.tasks)
    assert not (tmp_path / "no.so").exists()


def test_one_untuned_task_is_enough_to_refuse(tuned, tmp_path):
    model = workloads.conv_model(4, 16)  # the stem is tuned; a residual addition is not
    wider = workloads.lowered(workloads.conv_model(4, 16, residual=True), tuned.session.target)
    known = workloads.lowered(model, tuned.session.target)
    assert tuned.session.database.best_latency_ms(known.tasks[0].mod) is not None
    tuned.session.build(known, tmp_path / "known.so")
    with pytest.raises(UntunedTaskError, match=r"1 of 1 tasks: conv2d_add_add_relu\."):
        tuned.session.build(wider, tmp_path / "wider.so")


def test_a_failed_build_leaves_the_old_library(tuned, tmp_path):
    path = tmp_path / "kept.so"
    path.write_bytes(b"the old one")
    with pytest.raises(UntunedTaskError):
        build_library(tuned.lowered, ProgramDatabase(tmp_path / "empty"), path)
    assert path.read_bytes() == b"the old one"
    tuned.session.build(tuned.lowered, path)
    assert path.read_bytes().startswith(b"\x7fELF")


def test_a_library_tuned_for_two_threads_runs_on_one_and_two(device, images, tmp_path):
    if device.info().num_cores < 2:
        pytest.skip("this machine has one core")
    model = workloads.conv_model(4, 8)
    config = workloads.FEW_TRIALS
    with CompilerSession(device, tmp_path / "db", config, num_threads=2, seed=0) as session:
        assert int(session.target.attrs["num-cores"]) == 2
        lowered = session.lower(model)
        session.tune(lowered, 2)
        session.build(lowered, tmp_path / "two.so")
    expected = model(images, training=False).numpy()
    for num_threads in (1, 2):
        file = ModelFile("two", "tvm", str(tmp_path / "two.so"))
        (outputs,) = device.run_model(file, images, num_threads)
        assert workloads.relative_error(outputs, expected) < 1e-4
