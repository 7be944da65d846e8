from __future__ import annotations

import math

import hypothesis
import pytest
from hypothesis import strategies

from cprune_tf.compiler.profiling import good_structures
from cprune_tf.compiler.structure import (
    ProgramStructure,
    counts_keeping_structure,
    inner_factors,
    program_structure,
)
from cprune_tf.compiler.transfer import keep_inner
from cprune_tf.models.small import mobilenet_small

from . import workloads


@pytest.fixture(scope="module")
def conv():
    """A convolution of 32 filters with bias and relu."""
    return workloads.conv_task(workloads.lowered(workloads.conv_model(filters=32)))


@pytest.fixture(scope="module")
def programs(conv):
    return workloads.sampled_programs(conv, 16)


@pytest.mark.parametrize(
    ("compute", "epilogue", "step"),
    [
        # The paper's rule: the product of all factors but one copy of the largest ...
        ([1, 4, 16, 1], [], 4),
        ([1, 1, 2, 16], [], 2),
        ([4, 4, 4, 1], [], 16),
        ([2, 16, 1, 2], [], 4),
        ([64], [], 1),
        ([1, 1, 1, 1], [], 1),
        # ... in both stages, the larger of the two.
        ([1, 4, 16, 1], [8, 8], 8),
        ([1, 4, 16, 1], [2, 32], 4),
        ([1, 4, 16, 1], [64], 4),
        # A workload without a reduction, and one without any tiling.
        ([], [4, 16], 4),
        ([], [], 1),
    ],
)
def test_structure_step(compute, epilogue, step):
    filters = math.prod(compute or epilogue)
    assert ProgramStructure(tuple(compute), tuple(epilogue), filters).step == step


@pytest.mark.parametrize(
    ("structure", "text"),
    [
        (ProgramStructure((1, 4, 16, 1), (4, 16), 64), "1x4x16x1 | epilogue 4x16"),
        (ProgramStructure((), (), 1), "- | epilogue -"),
        (
            ProgramStructure((4, 16), (64,), 64, ((3, 1), (1, 3), (2, 8))),
            "4x16 | epilogue 64 | reduction 3x1, 1x3, 2x8",
        ),
    ],
)
def test_structure_reads_well(structure, text):
    assert str(structure) == text


@pytest.mark.parametrize(
    ("splits", "compute", "epilogue"),
    [
        ({}, (32,), (32,)),
        ({"conv2d_nhwc": (3, [1, 4, 2, 4])}, (1, 4, 2, 4), (32,)),
        ({"conv2d_nhwc": (3, [2, 16])}, (2, 16), (32,)),
        # Other axes' tiles do not count.
        ({"conv2d_nhwc": (1, [2, 4])}, (32,), (32,)),
        ({"conv2d_nhwc": (6, [2, 4])}, (32,), (32,)),
        ({"LAST": (3, [4, 8])}, (32,), (4, 8)),
        ({"conv2d_nhwc": (3, [8, 4]), "LAST": (3, [2, 16])}, (8, 4), (2, 16)),
    ],
)
def test_factors_of_a_hand_made_program(conv, splits, compute, epilogue):
    last = workloads.block_names(conv.mod)[-1]
    assert last != "conv2d_nhwc"
    named = {name.replace("LAST", last): split for name, split in splits.items()}
    structure = program_structure(workloads.hand_made(conv.mod, named), conv.mod)
    assert (structure.compute, structure.epilogue) == (compute, epilogue)
    assert structure.filters == 32


def test_factors_of_sampled_programs_are_their_filter_tiles(conv, programs):
    """The fourth tile-size decision of MetaSchedule's sketch is the filter axis's."""
    assert len(programs) >= 8
    for program in programs:
        structure = program_structure(program, conv.mod)
        assert structure.compute == workloads.tiles(program)[3]
        assert math.prod(structure.compute) == math.prod(structure.epilogue) == 32
        assert structure.filters == 32
    assert len({program_structure(program, conv.mod).compute for program in programs}) > 2


@pytest.mark.parametrize(
    ("splits", "reduction"),
    [
        ({}, ((3,), (3,), (8,))),
        ({"conv2d_nhwc": (6, [2, 4])}, ((3,), (3,), (2, 4))),
        ({"conv2d_nhwc": (4, [1, 3])}, ((1, 3), (3,), (8,))),
        ({"conv2d_nhwc": (3, [4, 8])}, ((3,), (3,), (8,))),  # a filter's tile does not count
    ],
)
def test_reduction_factors_of_a_hand_made_program(conv, splits, reduction):
    structure = program_structure(workloads.hand_made(conv.mod, splits), conv.mod)
    assert structure.reduction == reduction


def test_reduction_factors_of_sampled_programs_are_their_tiles(conv, programs):
    """After four spatial axes, MetaSchedule's sketch decides kernel height, width and channels."""
    for program in programs:
        structure = program_structure(program, conv.mod)
        assert list(structure.reduction) == workloads.tiles(program)[4:7]
        assert [math.prod(factors) for factors in structure.reduction] == [3, 3, 8]
    assert len({program_structure(program, conv.mod).reduction for program in programs}) > 2


def test_decisions_that_are_changed_are_seen(conv, programs):
    changed = workloads.with_tiles(programs[0], 3, [1, 4, 8, 1])
    assert program_structure(changed, conv.mod).compute == (1, 4, 8, 1)
    assert program_structure(changed, conv.mod).step >= 4


@pytest.mark.parametrize(
    ("layer", "filters"),
    [("stem_conv", 8), ("block1_depthwise", 8), ("block2_pointwise", 16), ("classifier", 10)],
)
def test_every_kind_of_anchor_has_factors(layer, filters):
    model = workloads.lowered(mobilenet_small(filters=(8, 16)))
    task = workloads.conv_task(model, layer)
    for program in workloads.sampled_programs(task, 4):
        structure = program_structure(program, task.mod)
        assert structure.filters == filters
        assert math.prod(structure.compute) == filters
        assert 1 <= structure.step <= filters
        assert structure.reduction and all(structure.reduction)


def test_a_workload_without_reduction_has_an_epilogue_only():
    import keras
    from keras import layers

    inputs = [keras.Input((4, 4, 12)), keras.Input((4, 4, 12))]
    model = workloads.lowered(keras.Model(inputs, layers.Add(name="add")(inputs)))
    task = workloads.conv_task(model, "add")
    (program, *_) = workloads.sampled_programs(task, 1)
    structure = program_structure(program, task.mod)
    assert structure.compute == () and structure.epilogue and structure.filters == 12
    assert structure.reduction == ()


def factorization(total):
    """Factors of a number in some order."""
    primes = [p for p in (2, 3, 5) for _ in range(20) if total % p == 0]
    found = []
    for prime in primes:
        if total % prime == 0:
            found.append(prime)
            total //= prime
    return strategies.permutations([*found, 1]).map(tuple)


@strategies.composite
def some_structures(draw):
    """Structures of programs of one task, whatever their factors."""
    filters = draw(strategies.sampled_from([1, 8, 12, 30, 32, 60, 64]))
    factors = factorization(filters)
    pairs = draw(strategies.lists(strategies.tuples(factors, factors), min_size=1, max_size=4))
    return [ProgramStructure(compute, epilogue, filters) for compute, epilogue in pairs]


def fits(factors, count):
    """Whether the factors inside the first that is no 1 can stay at another count."""
    first = next((i for i, factor in enumerate(factors) if factor > 1), 0)
    inner = factors[first + 1 :] if max(factors) > 1 else ()
    return count % math.prod(inner) == 0


@hypothesis.given(structures=some_structures(), limit=strategies.integers(1, 130))
def test_a_count_keeps_structure_where_a_program_fits_with_another_outermost_factor(
    structures, limit
):
    counts = counts_keeping_structure(structures, limit)
    assert list(counts) == [
        count
        for count in range(1, limit + 1)
        if any(fits(s.compute, count) and fits(s.epilogue, count) for s in structures)
    ]
    if limit >= structures[0].filters:
        assert structures[0].filters in counts


def test_counts_that_keep_structure():
    one = ProgramStructure((1, 4, 8, 1), (32,), 32)
    other = ProgramStructure((2, 3, 2), (6, 4), 24)
    assert counts_keeping_structure([one], 30) == (8, 16, 24)
    assert counts_keeping_structure([other], 30) == (12, 24)
    assert counts_keeping_structure([one, other], 30) == (8, 12, 16, 24)
    assert counts_keeping_structure([ProgramStructure((), (3, 4), 12)], 9) == (4, 8)
    assert counts_keeping_structure([], 9) == ()
    with pytest.raises(ValueError, match="limit is 0; expected at least 1"):
        counts_keeping_structure([one], 0)


def test_transfer_keeps_a_tuned_program_s_inner_tiles_at_the_counts(tuned):
    database = tuned.session.database
    for row in tuned.session.task_table(tuned.lowered):
        structures = good_structures(database, row.task)
        assert row.structure in structures  # the fastest is good
        counts = counts_keeping_structure(structures, row.structure.filters)
        assert counts[-1] == row.structure.filters
        for count in range(1, row.structure.filters + 1):
            kept = [
                keep_inner(tiles, count)[len(tiles) - len(inner) :] == inner
                for structure in structures
                for tiles in [structure.compute or (1,), structure.epilogue]
                for inner in [inner_factors(tiles)]
            ]
            pairs = list(zip(kept[::2], kept[1::2], strict=True))
            assert any(map(all, pairs)) == (count in counts)
