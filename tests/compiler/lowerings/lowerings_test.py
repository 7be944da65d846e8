"""What holds for every lowering, tried on the one that docs/lowerings.md adds."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.s_tir import Schedule

import cprune_tf.compiler
from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.building.lowering import subgraph_calls
from cprune_tf.compiler.building.replacing import LoweringError
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.executable import build_library, schedule_model
from cprune_tf.compiler.lowerings import (
    DIRECT,
    Lowering,
    alternative_lowerings,
    find_lowering,
    lowering_of,
    register_lowering,
    unregister_lowering,
)
from cprune_tf.compiler.profiling import good_structures
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.tuning.search_space import tune_context

from .. import workloads

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "lowerings.md"
SKIP = "skip_zero_inputs"
COMPILER = pathlib.Path(cprune_tf.compiler.__file__).parent
FEATURES = np.random.default_rng(1).normal(size=(1, 32)).astype("float32")


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, Any]]:
    """Runs the page's code in order, as a newcomer would."""
    names: dict[str, Any] = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), names)
        yield names
    finally:
        unregister_lowering(SKIP)


@pytest.fixture
def register() -> Iterator[Any]:
    """Registers lowerings for one test."""
    before = {lowering.name for lowering in alternative_lowerings()}
    yield register_lowering
    for lowering in alternative_lowerings():
        if lowering.name not in before:
            unregister_lowering(lowering.name)


def run_library(path, *inputs):
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    return machine["main"](*map(tvm.runtime.tensor, inputs)).numpy()


def called_functions(mod):
    """The functions that main calls; a linear model's calls in order."""
    return [function for _, function in subgraph_calls(mod)]


def add_program(database, task, target, latency_ms):
    """A program of a task with a made-up latency; nothing is measured."""
    trace = tune_context(task.mod, target).generate_design_space()[-1].trace
    schedule = Schedule(task.mod)
    trace.apply_to_schedule(schedule, remove_postproc=True)
    arguments = workloads.arguments(task.mod)
    database.add(task.mod, schedule.trace, latency_ms, target, arguments)


def test_subgraphs_of_one_shape_are_several_tasks_where_their_weights_are_other_code(example):
    tasks = example["lowered"].tasks
    names = [task.name for task in tasks]
    assert names == ["matmul_add_relu", "matmul_add_relu#2", "matmul_add_relu#3"]
    hashes = {tvm_internals.structural_hash(task.mod) for task in tasks}
    assert len(hashes) == 1 and len({task.key for task in tasks}) == 3
    _, some, other = (task.alternatives for task in tasks)
    assert some[0].key != other[0].key
    for task in tasks[1:]:
        (alternative,) = task.alternatives
        assert alternative.key == tvm_internals.structural_hash(alternative.mod)
        assert alternative.subgraphs == task.subgraphs and alternative.weight == 1
        assert lowering_of(alternative.mod).name == SKIP
        assert lowering_of(task.mod).name == DIRECT


def test_equal_weights_share_a_task_and_its_alternative(example):
    inputs = keras.Input((32,))
    layers = [keras.layers.Dense(32, activation="relu", name=f"dense{n}") for n in range(3)]
    x = inputs
    for layer in layers:
        x = layer(x)
    for layer in layers[1:]:
        kernel = np.array(layer.kernel)
        kernel[:4] = 0
        layer.kernel.assign(kernel)
    tasks = workloads.lowered(keras.Model(inputs, x)).tasks
    assert [task.layers for task in tasks] == [("dense0",), ("dense1", "dense2")]
    assert [len(task.alternatives) for task in tasks] == [0, 1]
    assert tasks[1].alternatives[0].weight == 2


@pytest.mark.parametrize("sparse_layers", [(), ("some_zeros",), ("some_zeros", "other_zeros")])
def test_measurements_choose_for_each_subgraph(example, sparse_layers, tmp_path):
    model, lowered = example["model"], example["lowered"]
    database = ProgramDatabase(tmp_path / "tuning")
    add_program(database, lowered.tasks[0], lowered.target, 2.0)  # the three are one workload
    for task in lowered.tasks:
        for other in task.alternatives:
            faster = set(task.layers) <= set(sparse_layers)
            add_program(database, other, lowered.target, 1.0 if faster else 3.0)
    chosen = {task.layers[0]: task.fastest(database)[0].lowering for task in lowered.tasks}
    assert {layer for layer, name in chosen.items() if name == SKIP} == set(sparse_layers)
    assert lowered.latency_ms(database) == pytest.approx(6.0 - len(sparse_layers))
    scheduled = called_functions(schedule_model(lowered, database))
    assert sum(SKIP in function for function in scheduled) == len(sparse_layers)
    build_library(lowered, database, tmp_path / "model.so")
    expected = np.asarray(model(FEATURES))
    actual = run_library(tmp_path / "model.so", FEATURES)
    assert workloads.relative_error(actual, expected) < 1e-4


def test_a_lowering_that_depends_on_weights_is_tuned_priced_and_built(example, device, tmp_path):
    model = example["model"]
    config = workloads.FEW_TRIALS
    with CompilerSession(device, tmp_path / "db", config, num_threads=1, seed=0) as session:
        lowered = session.lower(model)
        session.tune(lowered, config.trials_per_task)
        for task in lowered.tasks:
            for one in task.lowerings:
                assert session.database.programs(one.mod), one.name
                assert not task.alternatives or good_structures(session.database, task)
        rows = session.task_table(lowered)
        assert {row.structure.filters for row in rows} == {32}
        # Other zeros are another workload: its price is measured, the direct one's is known.
        kernel = np.array(model.get_layer("full").kernel)
        kernel[10:20] = 0
        other = keras.models.clone_model(model)
        other.set_weights(model.get_weights())
        other.get_layer("full").kernel.assign(kernel)
        candidate, measured = session.lower(other), []
        direct = len(session.database.programs(candidate.tasks[0].mod))
        assert session.price(candidate, lowered, measured.append) > 0
        assert [task.layers for task in measured] == [("full",)]
        (alternative,) = measured[0].alternatives
        assert session.database.programs(alternative.mod)
        assert len(session.database.programs(candidate.tasks[0].mod)) == direct
        session.build(candidate, tmp_path / "model.so")
    expected = np.asarray(other(FEATURES))
    assert workloads.relative_error(run_library(tmp_path / "model.so", FEATURES), expected) < 1e-4


def test_a_task_has_an_alternative_for_each_lowering_that_matches(register, tmp_path):
    """Any number of lowerings, each a workload of its own; the fastest is built."""

    @register
    class Doubled(Lowering):
        name = anchor = "test_doubled"

        def matches(self, operator, target):
            return operator.operator == "relax.nn.conv2d"

        def legalize(self, builder, operator):
            return builder.call_te(
                _pointwise, *operator.call.args, self.anchor, primfunc_name_hint=self.name
            )

    lowered = workloads.lowered(workloads.conv_model(8, 16))
    (task,) = lowered.tasks
    assert [one.lowering for one in task.lowerings] == [DIRECT, "test_doubled", "winograd"]
    assert len({one.key for one in task.lowerings}) == 3
    assert [one.name for one in task.alternatives] == [
        f"{task.name} ({name})" for name in ("test_doubled", "winograd")
    ]
    database = ProgramDatabase(tmp_path)
    for latency_ms, one in enumerate(reversed(task.lowerings), start=1):
        add_program(database, one, lowered.target, float(latency_ms))
        assert task.fastest(database)[0].lowering == "winograd"
    assert all("winograd" in f for f in called_functions(schedule_model(lowered, database)))


def _pointwise(data, kernel, name):
    """Something of a convolution's output shape; a numeric test would refuse it."""
    from tvm import te

    shape = (*data.shape[:3], kernel.shape[3])
    return te.compute(shape, lambda n, h, w, o: data[n, h, w, 0] * kernel[0, 0, 0, o], name=name)


def test_the_direct_lowering_in_an_operators_place_changes_nothing(register):
    @register
    class Again(Lowering):
        name = anchor = "test_again"

        def matches(self, operator, target):
            return operator.operator == "relax.nn.conv2d"

        def legalize(self, builder, operator):
            return find_lowering(DIRECT).legalize(builder, operator)

    for model in (workloads.conv_model(8, 16), workloads.conv_model(relu=False, bias=False)):
        (task,) = workloads.lowered(model).tasks
        assert task.in_lowering("test_again").key == task.key


def emit_data(builder, operator):
    doubled = builder.emit(relax.op.add(operator.call.args[0], operator.call.args[0]))
    return relax.op.nn.conv2d(doubled, operator.call.args[1], **LAYOUT)


def emit_other_shape(builder, operator):
    return relax.op.nn.conv2d(*operator.call.args, **{**LAYOUT, "padding": 0})


LAYOUT = {"padding": 1, "data_layout": "NHWC", "kernel_layout": "HWIO"}


@pytest.mark.parametrize(
    ("legalize", "message"),
    [
        (
            emit_data,
            r"'test_wrong' cannot replace relax\.nn\.conv2d: add reads data; expected",
        ),
        (emit_other_shape, r"a .*6, 6.* is computed; expected .*8, 8.*docs/lowerings\.md"),
    ],
)
def test_a_legalisation_of_another_form_is_refused(register, legalize, message):
    @register
    class Wrong(Lowering):
        name = anchor = "test_wrong"

        def matches(self, operator, target):
            return operator.operator == "relax.nn.conv2d"

        def legalize(self, builder, operator):
            return legalize(builder, operator)

    with pytest.raises(LoweringError, match=message):
        workloads.lowered(workloads.conv_model())


def test_two_lowerings_may_not_share_a_name_or_an_anchor():
    with pytest.raises(ValueError, match=r"'winograd' with the anchor.*'x' clashes"):
        register_lowering(type("Other", (Lowering,), {"name": "winograd", "anchor": "x"}))
    anchor = find_lowering("winograd").anchor
    with pytest.raises(ValueError, match="expected a name and an anchor of its own"):
        register_lowering(type("Other", (Lowering,), {"name": "other", "anchor": anchor}))


def test_what_cannot_be_assigned_is_refused():
    lowered = workloads.lowered(workloads.conv_model(kernel=1))
    ((part,),) = [task.subgraphs for task in lowered.tasks]
    assert lowered.lowered_as({part.call: DIRECT}) is lowered.mod
    with pytest.raises(ValueError, match=f"'{part.call}' cannot be computed in .* 'winograd'"):
        lowered.lowered_as({part.call: "winograd"})
    with pytest.raises(ValueError, match=r"no lowering 'none'; expected one of direct, .*winograd"):
        lowered.lowered_as({part.call: "none"})
    with pytest.raises(ValueError, match="The subgraph 'no_call' cannot"):
        lowered.lowered_as({"no_call": "winograd"})


def test_the_rest_of_the_compiler_names_no_lowering():
    """A new lowering is one new file: nothing branches on one or imports one."""
    own = COMPILER / "lowerings"
    names = {lowering.name for lowering in alternative_lowerings()}
    general = {"base", "registry", "register_tiles"}
    checked = 0
    for path in COMPILER.rglob("*.py"):
        if own in path.parents:
            continue
        checked += 1
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "cprune_tf.compiler.lowerings."
            ):
                assert node.module.split(".")[3] in general, f"{path} imports {node.module}"
            if isinstance(node, ast.Compare | ast.Call):
                constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
                assert not names & {c for c in constants if isinstance(c, str)}, path
    assert checked > 20
