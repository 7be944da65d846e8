from __future__ import annotations

import math

import pytest

from cprune_tf.compiler.structure import ProgramStructure, program_structure
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
    assert structure == ProgramStructure(compute, epilogue, 32)


def test_factors_of_sampled_programs_are_their_filter_tiles(conv, programs):
    """The fourth tile-size decision of MetaSchedule's sketch is the filter axis's."""
    assert len(programs) >= 8
    for program in programs:
        structure = program_structure(program, conv.mod)
        assert structure.compute == workloads.tiles(program)[3]
        assert math.prod(structure.compute) == math.prod(structure.epilogue) == 32
        assert structure.filters == 32
    assert len({program_structure(program, conv.mod).compute for program in programs}) > 2


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


def test_a_workload_without_reduction_has_an_epilogue_only():
    import keras
    from keras import layers

    inputs = [keras.Input((4, 4, 12)), keras.Input((4, 4, 12))]
    model = workloads.lowered(keras.Model(inputs, layers.Add(name="add")(inputs)))
    task = workloads.conv_task(model, "add")
    (program, *_) = workloads.sampled_programs(task, 1)
    structure = program_structure(program, task.mod)
    assert structure.compute == () and structure.epilogue and structure.filters == 12
