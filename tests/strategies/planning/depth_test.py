"""Groups that may vanish, and groups of models of which branches have vanished."""

from __future__ import annotations

import pytest

from cprune_tf import graph
from cprune_tf.strategies.planning.depth import Depth
from tests.graph import residual_models as blocks
from tests.strategies.planning.planner_test import with_branches

layers = blocks.layers


def nested(x, name):
    """A branch with a branch inside."""
    y = layers.ReLU()(blocks.conv(x, 6, 3, f"{name}_out"))
    z = blocks.conv(layers.ReLU()(blocks.conv(y, 4, 3, f"{name}_in")), 6, 3, f"{name}_back")
    y = layers.Add()([y, z])
    return layers.Add()([x, blocks.conv(y, x.shape[-1], 3, f"{name}_last")])


@pytest.fixture(scope="module")
def branches():
    return graph.analyze(with_branches())


def test_groups_of_one_branch_go_together(branches):
    depth = Depth(branches, branches)
    assert depth.vanishing == ("a1", "a2", "b1", "c1", "d1")
    assert set(depth.implied) == {("a1", "a2"), ("a2", "a1")}
    assert depth.branches(["b1", "a1", "a2"]) == ("a1", "b1")


def test_a_conflict_names_only_the_groups_that_make_it(branches):
    depth = Depth(branches, branches)
    assert depth.conflict(["a1", "a2", "b1", "c1", "d1"]) == {"c1", "d1"}
    assert not depth.conflict(["a1", "a2", "b1", "c1"]) and not depth.conflict([])


def test_nothing_vanishes_that_is_protected_or_if_it_is_not_allowed(branches):
    assert Depth(branches, branches, ["a3", "d*"]).vanishing == ("b1", "c1")
    assert Depth(branches, branches, allowed=False).vanishing == ()


def test_a_pruned_model_is_described_by_the_groups_of_the_original():
    model = blocks.chain(blocks.projected, blocks.bottleneck, blocks.excited_inside)
    original = graph.analyze(model)
    removal = blocks.whole(model, "block0_a", "block2_a") | {"stem": [0, 1], "block0_b": [3]}
    smaller = graph.rebuild(model, removal, fold_constants=False)
    depth = Depth(original, graph.analyze(smaller))
    # The stream of the first block was called after a layer that has vanished.
    assert depth.original_of["block0_short"] == "block0_b"
    assert depth.units["block0_b"] == 9 and depth.units["stem"] == 6
    gone = {name for name, count in depth.units.items() if not count}
    assert gone == {"block0_a", "block2_a", "block2_reduce"}
    assert depth.vanishing == ("block1_a", "block1_b")


def test_the_parts_of_a_branch_add_up_to_what_it_is_worth():
    model = blocks.chain(nested, blocks.bottleneck)
    channels = graph.analyze(model)
    depth = Depth(channels, channels)
    names = ("block0_out", "block0_in", "block1_a", "block1_b")
    assert depth.vanishing == names
    parts = depth.shared_values(dict(zip(names, (-3.0, -1.0, -2.0, -2.0), strict=True)))
    assert parts == dict(zip(names, (-2.0, -1.0, -2.0, 0.0), strict=True))
    assert depth.branches(names) == ("block0_out", "block1_a")
