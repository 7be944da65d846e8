"""Branches vanish where a sum goes on without them; the masked model is what must be equalled."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from cprune_tf.graph import (
    Effect,
    GraphError,
    PruningHistory,
    analyze,
    group_statistics,
    mask,
    plan_folding,
    rebuild,
    register_rule,
    statistics,
)
from cprune_tf.graph.rules import REGISTRY
from tests.graph.models import functional, random_inputs, relative_error
from tests.graph.residual_models import (
    BLOCKS,
    basic,
    bottleneck,
    chain,
    conv,
    excited_behind,
    excited_inside,
    inverted,
    normal,
    projected,
    whole,
)

layers = keras.layers


LINEAR = [inverted, excited_inside, excited_behind]


def names_of(model: Any) -> set[str]:
    return {layer.name for layer in model.layers}


def check_equal(model: Any, removal: Any) -> Any:
    """Rebuilds without constants, compares with the mask, and returns the smaller model."""
    small = rebuild(model, removal, fold_constants=False)
    assert relative_error(small, mask(model, removal), random_inputs(model)) < 1e-5
    return small


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_without_inner_channels_disappears(block: Any) -> None:
    model = chain(block, block)
    removal = whole(model, "block1_a")
    small = check_equal(model, removal)
    gone = {name for name in names_of(small) if name.startswith("block1")}
    assert gone <= {"block1_short", "block1_short_bn"}
    assert relative_error(small, model, random_inputs(model)) > 1e-3
    assert "block1_a" in {group.name for group in analyze(model).removable_whole}


@pytest.mark.parametrize("block", BLOCKS)
def test_other_groups_are_narrowed_in_the_same_step(block: Any) -> None:
    model = chain(block, block, block)
    removal = {"stem": [0, 3], "block0_a": [1], **whole(model, "block1_a"), "block2_a": [0, 2]}
    small = check_equal(model, removal)
    assert small.get_layer("block2_a").filters == model.get_layer("block2_a").filters - 2
    assert analyze(small)["stem"].num_channels == 6


@pytest.mark.parametrize("block", LINEAR)
@pytest.mark.parametrize("extra", [{}, {"stem": [0, 3]}, {"block2_a": [1]}])
def test_the_constant_goes_into_the_layer_beside_the_sum(block: Any, extra: Any) -> None:
    model = chain(block, block, block)
    removal = {**whole(model, "block1_a", "block0_a"), **extra}
    graph = analyze(model)
    assert not plan_folding(graph.propagation, graph.keep(removal)).dropped
    folded, inputs = rebuild(model, removal), random_inputs(model)
    assert relative_error(folded, mask(model, removal, keep_constants=True), inputs) < 1e-5
    assert relative_error(rebuild(model, removal, fold_constants=False), folded, inputs) > 1e-3
    assert names_of(folded) <= names_of(model)


def test_the_constant_goes_into_the_layers_behind_the_sum() -> None:
    def build(x: Any) -> Any:
        x = layers.ReLU()(conv(x, 6, 3, "stem"))
        y = conv(conv(x, 4, 1, "a", activation="sigmoid"), 6, 1, "b")
        total = layers.Add(name="sum")([x, y])
        z = conv(layers.ReLU()(normal(total, "z")), 6, 3, "z")
        total = layers.Add()([total, z])
        wide = layers.Conv2D(5, 1, use_bias=False, name="reader")(total)
        return layers.Dense(2)(layers.Flatten()(layers.ReLU()(normal(wide, "last"))))

    model = functional((8, 8, 3), build)
    removal = whole(model, "a")
    graph = analyze(model)
    plan = plan_folding(graph.propagation, graph.keep(removal))
    assert not plan.dropped and plan.additions.keys() >= {"z_bn", "last_bn"}
    reference = mask(model, removal, keep_constants=True)
    assert relative_error(rebuild(model, removal), reference, random_inputs(model)) < 1e-5


def test_a_constant_between_two_activations_is_dropped_and_listed() -> None:
    model = chain(basic, basic)
    removal = whole(model, "block1_a")
    graph = analyze(model)
    dropped = plan_folding(graph.propagation, graph.keep(removal)).dropped
    assert [d.consumer for d in dropped] == ["block1_b", "block1_sum"]
    assert "same everywhere" in dropped[0].reason
    assert "beside or behind" in dropped[1].reason
    weights = dict(zip(("gamma", "beta", "mean", "variance"), _bn(model, "block1_b"), strict=True))
    deviation = np.sqrt(weights["variance"] + model.get_layer("block1_b_bn").epsilon)
    shift = weights["beta"] - weights["gamma"] * weights["mean"] / deviation
    assert dropped[1].largest == pytest.approx(np.abs(shift).max(), rel=1e-4)
    small, inputs = rebuild(model, removal), random_inputs(model)
    assert relative_error(small, mask(model, removal), inputs) < 1e-5


def _bn(model: Any, name: str) -> Any:
    return model.get_layer(f"{name}_bn").get_weights()


def test_folding_leaves_a_model_with_a_dead_branch_as_it_is() -> None:
    model = chain(inverted, inverted)
    layer = model.get_layer("block1_a")
    layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
    layer = model.get_layer("block1_dw")
    layer.set_weights([np.zeros_like(layer.get_weights()[0]), layer.get_weights()[1]])
    small = rebuild(model, whole(model, "block1_a"))
    assert "block1_b" not in names_of(small)
    assert relative_error(small, model, random_inputs(model)) < 1e-5


@pytest.mark.parametrize("name", ["block1_a", "block1_b"])
def test_either_group_of_a_bottleneck_takes_the_branch_along(name: str) -> None:
    model = chain(bottleneck, bottleneck)
    small = check_equal(model, {**whole(model, name), "block0_b": [2]})
    groups = {group.name for group in analyze(small).groups}
    assert groups == {"stem", "block0_a", "block0_b", "head"}
    assert check_equal(model, whole(model, "block1_a", "block1_b")).count_params()


def test_a_group_of_one_unit_may_vanish_though_it_is_protected() -> None:
    model = chain(basic, basic)
    thin = rebuild(model, {"block1_a": list(range(5))})
    graph = analyze(thin)
    assert graph["block1_a"].protected == "has only one unit"
    assert {group.name for group in graph.removable_whole} == {"block0_a", "block1_a"}
    assert "block1_b" not in names_of(check_equal(thin, {"block1_a": [0]}))


def _into_concatenation(x: Any) -> Any:
    x = conv(x, 6, 3, "stem")
    x = layers.Concatenate(name="both")([x, conv(conv(x, 4, 3, "a"), 6, 3, "b")])
    return layers.Dense(2)(layers.Flatten()(x))


def _into_product(x: Any) -> Any:
    x = conv(x, 6, 3, "stem")
    x = layers.Multiply(name="gate")([x, conv(conv(x, 4, 3, "a"), 6, 1, "b")])
    return layers.Dense(2)(layers.Flatten()(x))


def _without_parallel_path(x: Any) -> Any:
    return layers.Dense(2, name="out")(layers.Flatten()(conv(conv(x, 4, 3, "a"), 6, 1, "b")))


def _output_is_the_sum(x: Any) -> Any:
    x = conv(x, 6, 3, "stem")
    return layers.Add(name="out")([x, conv(conv(x, 4, 3, "a"), 6, 1, "b")])


def _broadcast_shortcut(x: Any) -> Any:
    x = conv(x, 6, 3, "stem")
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Add(name="sum")([pooled, conv(conv(x, 4, 3, "a"), 6, 1, "b")])
    return layers.Dense(2)(layers.Flatten()(x))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (_into_concatenation, "'both' (Concatenate), .* is not a sum"),
        (_into_product, "'gate' (Multiply), .* is not a sum"),
        (_without_parallel_path, "the model's output 'out' would no longer depend on its inputs"),
        (_output_is_the_sum, "'out' (Add), .* is an output of the model"),
        (_broadcast_shortcut, "'sum' (Add), .* has no other operand of its own shape"),
    ],
)
def test_a_block_that_cannot_vanish_is_refused(build: Any, reason: str) -> None:
    model = functional((6, 6, 3), build)
    assert "a" not in {group.name for group in analyze(model).removable_whole}
    reason = reason.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(GraphError, match=f"without channels; keep at least one .*{reason}"):
        rebuild(model, whole(model, "a"))


def test_parallel_branches_vanish_one_at_a_time() -> None:
    def build(x: Any) -> Any:
        branches = [conv(conv(x, 4, 3, f"{n}a"), 6, 3, f"{n}b") for n in "lmr"]
        return layers.Dense(2, name="out")(layers.Flatten()(layers.Add(name="sum")(branches)))

    model = functional((6, 6, 3), build)
    names = {group.name for group in analyze(model).removable_whole}
    assert names == {"la", "ma", "ra"}
    assert len(check_equal(model, whole(model, "ma")).get_layer("sum").input) == 2
    check_equal(model, {**whole(model, "la", "ra"), "ma": [1]})
    with pytest.raises(GraphError, match="no longer depend"):
        rebuild(model, whole(model, "la", "ma", "ra"))


def test_an_input_stays_connected() -> None:
    left, right = keras.Input((6, 6, 3), name="left"), keras.Input((6, 6, 3), name="right")
    total = layers.Add()([conv(left, 6, 3, "l"), conv(conv(right, 4, 3, "a"), 6, 3, "b")])
    model = keras.Model([left, right], layers.Dense(2)(layers.Flatten()(total)))
    with pytest.raises(GraphError, match="the model's input 'right' would no longer be read"):
        rebuild(model, whole(model, "a"))


def test_a_branch_may_feed_several_sums() -> None:
    def build(x: Any) -> Any:
        x = conv(x, 6, 3, "stem")
        y = conv(conv(x, 4, 3, "a"), 6, 1, "b")
        first = layers.ReLU()(layers.Add()([x, y]))
        second = layers.ReLU()(layers.Add()([conv(x, 6, 3, "other"), y]))
        return layers.Dense(2)(layers.Flatten()(layers.Concatenate()([first, second])))

    model = functional((6, 6, 3), build)
    small = check_equal(model, {**whole(model, "a"), "stem": [1]})
    assert not names_of(small) & {"a", "b"}


def test_attention_heads_may_vanish() -> None:
    def build(x: Any) -> Any:
        x = layers.Reshape((36, 8))(conv(x, 8, 1, "stem"))
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 4, name="heads")(y, y)])
        y = layers.Dense(5, activation="gelu", name="mlp")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(8)(y)])
        return layers.Dense(2)(layers.GlobalAveragePooling1D()(x))

    model = functional((6, 6, 3), build)
    small = check_equal(model, {**whole(model, "heads/heads"), "stem": [2], "mlp": [0]})
    assert "heads" not in names_of(small)
    check_equal(small, whole(small, "mlp"))


class Total(layers.Layer):
    def call(self, inputs: Any) -> Any:
        return keras.ops.sum(keras.ops.stack(inputs), axis=0)


def test_a_rule_can_declare_a_sum() -> None:
    @register_rule(Total)
    def total(call: Any) -> Effect:
        for axes in call.inputs[1:]:
            call.tie(call.inputs[0][-1], axes[-1])
        return Effect((call.inputs[0],), keeps_zero=True, flow="pointwise", sums=True)

    def build(x: Any) -> Any:
        x = conv(x, 6, 3, "stem")
        x = Total()([x, conv(x, 6, 3, "c"), conv(conv(x, 4, 3, "a"), 6, 1, "b")])
        return layers.Dense(2)(layers.Flatten()(x))

    try:
        model = functional((6, 6, 3), build)
        assert "b" not in names_of(check_equal(model, {**whole(model, "a"), "stem": [1]}))
    finally:
        REGISTRY.unregister(Total)


def test_the_history_replays_and_merges_vanished_branches() -> None:
    model = chain(projected, bottleneck)
    history, pruned = PruningHistory(), model
    steps = [{"block0_a": [0]}, {"block0_a": list(range(5)), "stem": [1]}]
    # The group of the second stage is named after the branch, then after the shortcut.
    steps += [{"block0_short": [2, 5]}, {**whole(model, "block1_b"), "stem": [0]}]
    assert analyze(model).group_of("block0_short").name == "block0_b"
    for removal in steps:
        history = history.add(removal, fold_constants=False)
        pruned = rebuild(pruned, removal, fold_constants=False)
    replayed = PruningHistory.from_json(history.to_json()).replay(model)
    merged = history.merged(model)
    assert merged["block0_b"] == [2, 5] and len(merged["block0_a"]) == 6
    assert not any("block1" in name or "block0_a" in name for name in names_of(pruned))
    for other in (replayed, rebuild(model, merged, fold_constants=False)):
        assert [w.path for w in other.weights] == [w.path for w in pruned.weights]
        for a, b in zip(other.weights, pruned.weights, strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    check_equal(model, merged)


def test_a_model_of_which_one_block_remains_trains_and_saves(tmp_path: Any) -> None:
    model = chain(basic, basic, basic, projected, basic, basic, projected, basic, basic)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    removal = whole(model, *(f"block{i}_a" for i in range(9) if i != 4))
    assert {*removal, "block4_a"} == {g.name for g in analyze(model).removable_whole}
    small = check_equal(model, removal)
    kept = {name for name in names_of(small) if name.endswith(("_a", "_b", "_short"))}
    assert kept == {"block4_a", "block4_b", "block3_short", "block6_short"}
    graph, counted = analyze(small), statistics(small)
    assert counted.params == small.count_params() < model.count_params() / 2
    assert [group.name for group in graph.removable_whole] == ["block4_a"]
    assert {g.name for g in group_statistics(graph)} == {g.name for g in graph.groups}
    small.fit(random_inputs(small), np.zeros(2), verbose=0)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert relative_error(loaded, small, random_inputs(small)) < 1e-6
    masked = mask(model, removal)
    masked.fit(random_inputs(model), np.zeros(2), verbose=0)
    masked.save(tmp_path / "masked.keras")
    keras.models.load_model(tmp_path / "masked.keras")
