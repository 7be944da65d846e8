from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from cprune_tf import graph, sparse
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.devices import ModelFile

from . import workloads


@pytest.fixture(scope="module")
def pruned(tuned):
    """The tiny model with fewer filters in every group, and as the compiler sees it."""
    channels = graph.analyze(tuned.model)
    removal = {group.name: range(0, 16, 4) for group in channels.prunable}
    assert set(removal) == {"stem", "first", "second"}
    model = graph.rebuild(tuned.model, {name: list(units) for name, units in removal.items()})
    return model, tuned.session.lower(model)


@pytest.fixture(scope="module")
def priced(tuned, pruned):
    """(price of the pruned model, tasks that were measured for it)."""
    tasks = []
    return tuned.session.price(pruned[1], tuned.lowered, tasks.append), tasks


def test_tuning_measures_every_task_of_the_model(tuned):
    for task in tuned.lowered.tasks:
        assert tuned.session.database.programs(task.mod)
    again = tuned.session.tune(tuned.lowered, workloads.FEW_TRIALS.trials_per_task)
    assert again.num_failed == 0
    # What is left to do for a task of few programs is at most half a round.
    assert again.num_trials <= len(tuned.lowered.tasks) * 3


def test_the_task_table_ranks_by_latency_and_weight(tuned):
    rows = tuned.session.task_table(tuned.lowered)
    assert {row.task for row in rows} == set(tuned.lowered.tasks)
    assert [row.total_ms for row in rows] == sorted((row.total_ms for row in rows), reverse=True)
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    whole_ms = tuned.lowered.latency_ms(tuned.session.database)
    assert sum(row.total_ms for row in rows) == pytest.approx(whole_ms)
    for row in rows:
        best_ms = row.task.best_latency_ms(tuned.session.database)
        assert row.latency_ms == best_ms
        assert row.total_ms == pytest.approx(best_ms * row.task.weight)
        assert row.gflops == pytest.approx(row.task.flops / (best_ms * 1e-3) / 1e9)
    (shared,) = (row for row in rows if row.task.weight == 2)
    assert shared.task.layers == ("first", "second")
    assert math.prod(shared.structure.compute) == shared.structure.filters == 16


def test_a_price_is_the_sum_of_measured_tasks(tuned, pruned, priced):
    price_ms, measured = priced
    _, lowered = pruned
    assert price_ms == pytest.approx(lowered.latency_ms(tuned.session.database)) and price_ms > 0
    # The classifier's softmax has the shape it had: its measurement is not repeated.
    known = {task.key for task in tuned.lowered.tasks}
    assert [task.key for task in measured] == [t.key for t in lowered.tasks if t.key not in known]
    assert 0 < len(measured) < len(lowered.tasks)


def _image_tiles(tuned, task):
    """How the programs of a task tile height and width, which pruning leaves alone."""
    programs = tuned.session.database.programs(task.mod)
    return [tuple(workloads.tiles(program)[1:3]) for program in programs]


def test_a_price_comes_from_a_few_transferred_programs(tuned, pruned, priced):
    directly = 0
    for layer in ("stem", "first", "third"):
        task = workloads.conv_task(pruned[1], layer)
        counts = [len(tuned.session.database.programs(one.mod)) for one in task.lowerings]
        assert 1 <= sum(counts) <= workloads.FEW_TRIALS.programs_per_task + 1
        # A lowering that lost by far at the unpruned shape is not tried.
        directly += counts[0] > 0
        sources = _image_tiles(tuned, workloads.conv_task(tuned.lowered, layer))
        found = _image_tiles(tuned, task)
        # All but a seed or two come from the tuned model, its tiles refitted.
        assert not found or set(found) & set(sources)
        assert len(set(found) - set(sources)) <= 2
    assert directly


def test_a_hopeless_lowering_is_not_priced(tuned):
    """Its share is no programs at all; one that is close to the fastest gets a few."""
    task = workloads.conv_task(tuned.lowered, "first")
    pricer = tuned.session._tuner._pricer
    for factor, expected in ((1.2, 2), (3.0, 1)):
        pricer._best_by_lowering = lambda _, factor=factor: {"winograd": 1.0, "direct": factor}
        try:
            shares = {one.lowering: limit for one, limit in pricer.shares(task, [task])}
        finally:
            del pricer._best_by_lowering
        assert len(shares) == expected and shares["winograd"] >= 3


def test_a_second_price_measures_nothing(tuned, pruned, priced):
    count = len(tuned.session.database)
    measured = []
    assert tuned.session.price(pruned[1], tuned.lowered, measured.append) == priced[0]
    assert measured == [] and len(tuned.session.database) == count


def test_another_session_knows_the_price(tuned, pruned, priced, device):
    config = workloads.FEW_TRIALS
    with CompilerSession(device, tuned.directory, config, num_threads=1, seed=9) as session:
        lowered = session.lower(pruned[0])
        measured = []
        price_ms = session.price(lowered, tuned.lowered, measured.append)
    assert measured == [] and price_ms == pytest.approx(priced[0])


def test_a_priced_model_can_be_built_and_computes_what_keras_does(
    tuned, pruned, priced, device, tmp_path
):
    """Its programs were transferred, never searched for; the numbers must be right all the same."""
    model, lowered = pruned
    tuned.session.build(lowered, tmp_path / "pruned.so")
    images = np.random.default_rng(4).normal(size=(4, 8, 8, 4)).astype(np.float32)
    expected = model(images, training=False).numpy()
    (outputs,) = device.run_model(ModelFile("p", "tvm", str(tmp_path / "pruned.so")), images, 1)
    assert workloads.relative_error(outputs, expected) < 1e-4


def test_the_unchanged_model_is_priced_as_it_was_measured(tuned):
    count = len(tuned.session.database)
    price_ms = tuned.session.price(tuned.session.lower(tuned.model), tuned.lowered)
    assert price_ms == pytest.approx(tuned.lowered.latency_ms(tuned.session.database))
    assert len(tuned.session.database) == count


def test_a_session_that_imports_over_tflite_tunes_prices_and_builds(
    tuned, pruned, device, tmp_path
):
    config = workloads.FEW_TRIALS
    with CompilerSession(
        device, tuned.directory, config, num_threads=1, seed=3, frontend="tflite"
    ) as session:
        lowered = session.lower(tuned.model)
        conv = workloads.conv_task(lowered, "first")
        # The same workload as with the Keras importer, so what was measured counts.
        assert conv.key == workloads.conv_task(tuned.lowered, "first").key
        assert conv.best_latency_ms(session.database) is not None
        session.tune(lowered, config.trials_per_task)
        candidate = session.lower(pruned[0])
        assert 0 < session.price(candidate, lowered) < math.inf
        session.build(candidate, tmp_path / "pruned.so")
    images = np.random.default_rng(4).normal(size=(4, 8, 8, 4)).astype(np.float32)
    expected = pruned[0](images, training=False).numpy()
    (outputs,) = device.run_model(ModelFile("p", "tvm", str(tmp_path / "pruned.so")), images, 1)
    assert workloads.relative_error(outputs, expected) < 1e-4


def test_weights_with_patterns_are_computed_by_what_was_kept(tmp_path, device):
    """One of nine entries of one of eight kernels: no dense program is as fast."""
    keras.utils.set_random_seed(0)
    layer = keras.layers.Conv2D(64, 3, padding="same", activation="relu", name="conv")
    model = keras.Sequential([keras.Input((12, 12, 64), name="image"), layer])
    kernel = np.asarray(layer.kernel)
    patterns = sparse.natural_patterns([kernel], 4, 1)
    kept = sparse.num_kept_at(8, 64, 64, block_size=4)
    layer.kernel.assign(kernel * sparse.project(kernel, patterns, kept, block_size=4).mask())
    library = tmp_path / "model.so"
    image = np.random.default_rng(0).normal(size=(2, 12, 12, 64)).astype("float32")
    with CompilerSession(
        device, tmp_path / "tuning", workloads.FEW_TRIALS, num_threads=1, seed=0
    ) as session:
        lowered = session.lower(model)
        session.tune(lowered, workloads.FEW_TRIALS.trials_per_task)
        (row,) = session.task_table(lowered)
        assert row.lowering == "pattern"
        session.build(lowered, library)
    (outputs,) = device.run_model(ModelFile("p", "tvm", str(library)), image, 1)
    assert workloads.relative_error(outputs, np.asarray(model(image))) < 1e-4
