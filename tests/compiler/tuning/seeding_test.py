"""Register tiles and the programs that a search starts with."""

from __future__ import annotations

import math

import pytest
import tvm
from keras import Input, Model, layers

from cprune_tf.compiler.lowerings.register_tiles import VectorUnit, register_tiles, vector_unit
from cprune_tf.compiler.tuning.seeding import seed_schedules

from .. import workloads

AVX2 = VectorUnit(8, 16)
NEON = VectorUnit(4, 32)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mcpu": "x86-64"}, VectorUnit(4, 16)),
        ({"mcpu": "x86-64-v3"}, AVX2),
        ({"mcpu": "skylake-avx512"}, VectorUnit(16, 32)),
        ({"mcpu": "cortex-a76", "mtriple": "aarch64-linux-gnu"}, NEON),
    ],
)
def test_the_vector_unit_follows_the_targets_features(options, expected):
    assert vector_unit(tvm.target.Target({"kind": "llvm", **options})) == expected


@pytest.mark.parametrize("unit", [AVX2, NEON])
@pytest.mark.parametrize(("spatial", "channels"), [((16, 16), 64), ((7, 7), 24), ((56,), 96)])
def test_register_tiles_divide_the_output_and_fit(unit, spatial, channels):
    tiles = register_tiles(spatial, channels, unit)
    assert tiles
    for tile in tiles:
        assert all(e % r == 0 for e, r in zip(spatial, tile.rows, strict=True))
        assert channels % tile.channels == 0 and tile.channels % unit.lanes == 0
        sums = tile.num_rows * tile.channels / unit.lanes
        assert sums <= unit.registers
    assert tiles[0].efficiency == max(tile.efficiency for tile in tiles)


def test_enough_sums_are_kept_in_flight():
    """Fewer than latency x units would leave the multipliers waiting."""
    best = register_tiles((16, 16), 64, AVX2)[0]
    assert best.num_rows * best.channels // 8 >= 8
    assert AVX2.efficiency(1, 1) < 0.2 and AVX2.efficiency(16, 1) == 0.0


def test_odd_channel_counts_get_what_divides_them():
    assert {tile.channels for tile in register_tiles((8, 8), 61, AVX2)} == {1}
    assert {tile.channels for tile in register_tiles((8, 8), 6, AVX2)} == {6}


def innermost(schedule):
    """The innermost factors of the four-level tiles."""
    trace = schedule.trace
    decisions = [
        [int(factor) for factor in trace.decisions[inst]]
        for inst in trace.insts
        if inst.kind.name == "SamplePerfectTile"
    ]
    return [factors[-1] for factors in decisions if len(factors) == 4]


def test_seeds_of_a_convolution_hold_whole_vectors(target):
    task = workloads.conv_task(workloads.lowered(workloads.conv_model(filters=32), target))
    schedules = seed_schedules(task.mod, target, 8, seed=1)
    assert len(schedules) == 8
    unit = vector_unit(target)
    for schedule in schedules:
        *rows, channels = innermost(schedule)
        assert channels % unit.lanes == 0
        assert math.prod(rows) * channels // unit.lanes <= unit.registers
    assert len({str(schedule.trace) for schedule in schedules}) == 8


def test_seeds_repeat_for_equal_seeds_only(target):
    task = workloads.conv_task(workloads.lowered(workloads.conv_model(filters=32), target))

    def traces(seed):
        return [str(s.trace) for s in seed_schedules(task.mod, target, 6, seed)]

    assert traces(1) == traces(1) and traces(1) != traces(2)


def test_winograd_depthwise_and_dense_tasks_have_seeds_pooling_has_none(target):
    x = Input((8, 8, 16))
    y = layers.Conv2D(16, 3, padding="same", name="conv")(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    y = layers.Dense(8, name="dense")(layers.Flatten()(y))
    lowered = workloads.lowered(Model(x, layers.Softmax(name="softmax")(y)), target)
    (winograd,) = workloads.conv_task(lowered, "conv").alternatives
    for task in (winograd, *(workloads.conv_task(lowered, n) for n in ("depthwise", "dense"))):
        assert 2 <= len(seed_schedules(task.mod, target, 3, seed=0)) <= 3, task.name
    softmax = workloads.conv_task(lowered, "softmax")
    assert seed_schedules(softmax.mod, target, 3, seed=0) == []
