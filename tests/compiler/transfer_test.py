from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st

from cprune_tf.compiler.transfer import (
    Transfer,
    distinct_programs,
    keep_inner,
    reduce_largest,
)
from cprune_tf.compiler.tvm_internals import tile_decisions

from . import workloads

FACTORS = st.lists(st.sampled_from([1, 2, 3, 4, 5, 8, 16]), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def conv():
    """8 -> 16 filters, bias and relu."""
    return workloads.conv_task(workloads.lowered(workloads.conv_model()))


@pytest.fixture(scope="module")
def programs(conv):
    return workloads.sampled_programs(conv, 12)


def _pruned(channels=8, filters=16, **settings):
    return workloads.conv_task(
        workloads.lowered(workloads.conv_model(channels, filters, **settings))
    )


@pytest.mark.parametrize(
    ("factors", "extent", "kept"),
    [
        ([1, 4, 16, 1], 48, (3, 1, 16, 1)),
        ([1, 4, 16, 1], 128, (2, 4, 16, 1)),
        ([1, 4, 16, 1], 56, (7, 1, 8, 1)),
        ([1, 4, 16, 1], 61, (61, 1, 1, 1)),
        ([1, 1, 2, 16], 16, (1, 1, 1, 16)),
        ([8, 2], 6, (3, 2)),
        ([64], 24, (24,)),
    ],
)
def test_keep_inner(factors, extent, kept):
    assert keep_inner(factors, extent) == kept


@pytest.mark.parametrize(
    ("factors", "extent", "kept"),
    [
        ([1, 4, 16, 1], 60, (1, 4, 15, 1)),
        ([1, 4, 16, 1], 48, (1, 4, 12, 1)),
        ([4, 4, 4, 1], 48, (3, 4, 4, 1)),  # the outermost of equal ones
        ([1, 4, 16, 1], 61, (61, 1, 1, 1)),  # does not divide: as keep_inner
        ([64], 24, (24,)),
    ],
)
def test_reduce_largest(factors, extent, kept):
    assert reduce_largest(factors, extent) == kept


@given(FACTORS, st.integers(1, 512), st.sampled_from([keep_inner, reduce_largest]))
def test_refitted_factors_make_up_the_extent(factors, extent, refit):
    fitted = refit(factors, extent)
    assert len(fitted) == len(factors) and min(fitted) >= 1
    assert math.prod(fitted) == extent


@given(FACTORS, st.integers(1, 64))
def test_inner_factors_are_kept_where_they_divide(factors, outermost):
    inner = math.prod(factors[1:])
    assert keep_inner(factors, outermost * inner) == (outermost, *factors[1:])


@given(FACTORS, st.integers(1, 512))
def test_the_innermost_factor_comes_first(factors, extent):
    if len(factors) > 1:
        assert keep_inner(factors, extent)[-1] == math.gcd(factors[-1], extent)


@given(FACTORS, st.integers(1, 64))
def test_the_papers_refit_changes_one_factor(factors, largest):
    others = math.prod(factors) // max(factors)
    fitted = reduce_largest(factors, largest * others)
    changed = [i for i, pair in enumerate(zip(factors, fitted, strict=True)) if pair[0] != pair[1]]
    assert changed in ([], [factors.index(max(factors))])


@given(FACTORS)
def test_an_unchanged_extent_changes_nothing(factors):
    extent = math.prod(factors)
    assert keep_inner(factors, extent) == reduce_largest(factors, extent) == tuple(factors)


def test_tile_decisions_are_the_traces(programs):
    for program in programs:
        decisions = tile_decisions(program.trace)
        assert list(decisions) == workloads.tiles(program)
        # n, h, w and filters in four levels; kernel and input channels in two.
        assert [math.prod(factors) for factors in decisions] == [1, 8, 8, 16, 3, 3, 8]


def test_distinct_programs_differ_in_inner_tiling_and_keep_their_order(programs):
    twice = [program for program in programs for _ in range(2)]
    distinct = distinct_programs(twice, 5)
    inner = [[factors[1:] for factors in tile_decisions(p.trace)] for p in distinct]
    assert len(distinct) == 5 and all(inner.count(tiling) == 1 for tiling in inner)
    latencies = [program.latency_ms for program in distinct]
    assert latencies == sorted(latencies) and distinct[0] is programs[0]
    assert len(distinct_programs(twice, 1000)) <= len(programs)
    assert distinct_programs([], 5) == ()


def test_what_differs_in_the_outermost_factor_only_is_not_distinct():
    wide = workloads.conv_task(workloads.lowered(workloads.conv_model(filters=32)))
    (program, *_) = workloads.sampled_programs(wide, 1)
    same = workloads.with_tiles(program, 3, list(workloads.tiles(program)[3]))
    other = workloads.with_tiles(program, 3, [2, 1, 4, 4])
    another = workloads.with_tiles(program, 3, [1, 2, 4, 4])
    assert distinct_programs([program, same], 9) == (program,)
    assert distinct_programs([other, another], 9) == (other, another)


def _run(mod, arrays):
    """Runs a kernel on this machine; its last argument is what it writes."""
    library = tvm.compile(mod, target=workloads.LLVM)
    tensors = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arrays]
    library["main"](*tensors)
    return tensors[-1].numpy()


def _arrays(task):
    rng = np.random.default_rng(7)
    shapes = [tuple(int(n) for n in info.shape) for info in workloads.arguments(task.mod)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize(
    ("channels", "filters"), [(8, 12), (8, 11), (5, 16), (7, 9), (8, 1), (8, 24)]
)
def test_transferred_programs_compute_what_the_untuned_one_does(programs, channels, filters):
    task = _pruned(channels, filters)
    moved = Transfer(workloads.LLVM).apply(programs, task.mod, 3)
    assert moved
    arrays = _arrays(task)
    expected = _run(task.mod, arrays)
    assert np.abs(expected).max() > 1
    for program in moved:
        assert workloads.relative_error(_run(program.schedule.mod, arrays), expected) < 1e-5


def test_transferred_programs_are_distinct_and_as_many_as_asked_for(programs):
    task = _pruned(filters=12)
    transfer = Transfer(workloads.LLVM)
    moved = transfer.apply(programs, task.mod, 1000)
    assert len({program.signature for program in moved}) == len(moved) >= len(programs)
    assert [p.signature for p in transfer.apply(programs, task.mod, 4)] == [
        p.signature for p in moved[:4]
    ]
    assert transfer.apply(programs, task.mod, 0) == ()


def test_transfer_to_the_same_shape_changes_no_decision(conv, programs):
    moved = Transfer(workloads.LLVM).apply(programs[:1], conv.mod, 10)
    assert len(moved) == 1
    assert tile_decisions(moved[0].schedule.trace) == tile_decisions(programs[0].trace)


def test_transfer_keeps_the_inner_tiles(programs):
    source = workloads.with_tiles(programs[0], 3, [2, 1, 2, 4])
    task = _pruned(filters=8)
    moved = Transfer(workloads.LLVM).apply([source], task.mod, 1)
    assert tile_decisions(moved[0].schedule.trace)[3] == (1, 1, 2, 4)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ({}, {"residual": True}),  # conv+add+relu -> conv+add+add+relu
        ({"residual": True}, {}),
        ({"relu": False, "bias": False}, {}),
        ({}, {"relu": False, "bias": False}),
    ],
    ids=["to_residual", "from_residual", "from_bare", "to_bare"],
)
def test_programs_transfer_across_epilogues(here, there):
    source = workloads.conv_task(workloads.lowered(workloads.conv_model(**here)))
    task = _pruned(6, 12, **there)
    assert source.kind != task.kind
    moved = Transfer(workloads.LLVM).apply(workloads.sampled_programs(source, 8), task.mod, 4)
    assert moved
    arrays = _arrays(task)
    expected = _run(task.mod, arrays)
    for program in moved:
        assert workloads.relative_error(_run(program.schedule.mod, arrays), expected) < 1e-5


def test_where_nothing_fits_the_result_is_empty(programs):
    transfer = Transfer(workloads.LLVM)
    assert transfer.apply(programs, workloads.dense_workload(), 8) == ()
    assert transfer.apply([], _pruned().mod, 8) == ()


def test_transferred_programs_are_ready_to_build(programs):
    """What the trace only asks for by annotations (vectorise, unroll, parallel) is done."""
    (source, *_) = programs
    assert "meta_schedule.vectorize" in str(source.trace)
    for program in Transfer(workloads.LLVM).apply(programs, _pruned(filters=12).mod, 4):
        assert "meta_schedule.vectorize" not in program.schedule.mod.script()
