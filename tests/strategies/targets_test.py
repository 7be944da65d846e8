from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
import tvm
from keras import layers

from cprune_tf import graph
from cprune_tf.compiler.importer import import_model
from cprune_tf.compiler.tasks import lower_model
from cprune_tf.models.resnet import resnet8
from cprune_tf.models.small import mobilenet_small
from cprune_tf.strategies.base import least_units, ranked
from cprune_tf.strategies.workbench.targets import (
    find_target,
    removable,
    score_units,
    with_loss,
)
from tests.compiler.workloads import conv_task

LLVM = tvm.target.Target({"kind": "llvm", "num-cores": 1})


def choose_units(model, channels, groups, count, **how):
    """The units that a strategy would remove."""
    return least_units(ranked(score_units(model, channels, groups, **how)), count)


class Analyzed:
    """A model, its channel groups and its tasks."""

    def __init__(self, model, protect=()):
        self.model = model
        self.channels = graph.analyze(model, protect)
        self.lowered = lower_model(import_model(model), LLVM)

    def target(self, layer):
        return find_target(conv_task(self.lowered, layer), self.channels)


def _shared(filters=(8, 8, 8)):
    """Three convolutions in a row; the last two are one workload."""
    inputs = keras.Input((6, 6, 3), name="image")
    x = inputs
    for number, count in enumerate(filters, start=1):
        x = layers.Conv2D(count, 3, padding="same", activation="relu", name=f"conv{number}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(4, name="classifier")(x))


@pytest.fixture(scope="module")
def shared():
    return Analyzed(_shared())


@pytest.fixture(scope="module")
def resnet():
    return Analyzed(resnet8(input_shape=(16, 16, 1)))


@pytest.fixture(scope="module")
def mobilenet():
    return Analyzed(mobilenet_small(input_shape=(16, 16, 1), filters=(8, 16)))


def test_a_convolution_is_its_own_group(shared):
    target = shared.target("conv1")
    assert (target.groups, target.num_channels, target.reason) == (("conv1",), 8, None)
    assert target.key == "conv1@8"


def test_subgraphs_of_one_task_are_pruned_together(shared):
    target = shared.target("conv2")
    assert target.task.weight == 2
    assert (target.groups, target.num_channels, target.reason) == (("conv2", "conv3"), 8, None)
    assert target.key == "conv2+conv3@8"


def test_residual_branches_are_one_group(resnet):
    # What is added up lives and dies together, whichever of its tasks is aimed at.
    stem, second = resnet.target("stem_conv"), resnet.target("stack1_conv2")
    assert stem.task is not second.task
    assert stem.groups == second.groups == ("stem_conv",) and stem.key == second.key
    assert resnet.target("stack2_shortcut_conv").key == resnet.target("stack2_conv2").key
    inner = resnet.target("stack1_conv1")
    assert (inner.groups, inner.num_channels, inner.reason) == (("stack1_conv1",), 16, None)


@pytest.mark.parametrize(
    ("layer", "group"), [("stem_conv", "stem_conv"), ("stack1_conv2", "stem_conv")]
)
def test_the_group_of_a_target_is_what_its_layer_makes(resnet, layer, group):
    assert layer in resnet.channels[group].producers
    assert resnet.target(layer).num_channels == resnet.channels[group].num_channels


def test_the_classifier_is_protected_with_the_reason(resnet):
    target = resnet.target("classifier")
    assert target.groups == ("classifier",)
    assert target.reason is not None
    assert (
        "classifier" in target.reason and resnet.channels["classifier"].protected in target.reason
    )


def test_one_protected_group_protects_the_whole_task():
    model = Analyzed(_shared(), protect=("conv3",))
    target = model.target("conv2")
    assert target.groups == ("conv2", "conv3")
    assert target.reason is not None and "conv3" in target.reason
    assert model.target("conv1").reason is None


def test_a_depthwise_convolution_follows_its_input(mobilenet):
    first = mobilenet.target("block1_depthwise")
    assert (first.groups, first.reason) == (("stem_conv",), None)
    assert first.key == mobilenet.target("stem_conv").key
    assert mobilenet.target("block2_depthwise").groups == ("block1_pointwise",)


def test_a_depthwise_convolution_after_a_concatenation_has_the_filters_of_both():
    inputs = keras.Input((6, 6, 3))
    parts = [layers.Conv2D(n, 3, padding="same", name=f"part{n}")(inputs) for n in (4, 6)]
    x = layers.Concatenate(name="concat")(parts)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    model = Analyzed(keras.Model(inputs, layers.Conv2D(5, 1, name="last")(x)))
    target = model.target("depthwise")
    assert (target.groups, target.num_channels, target.reason) == (("part4", "part6"), 4, None)


@pytest.mark.parametrize("layer", ["pool"])
def test_what_has_no_filters_says_so(resnet, layer):
    target = resnet.target(layer)
    assert (target.groups, target.num_channels) == ((), 0)
    assert target.reason == "it has no filters"


def test_every_task_of_a_model_has_a_target(resnet, mobilenet, shared):
    for model in (resnet, mobilenet, shared):
        for task in model.lowered.tasks:
            target = find_target(task, model.channels)
            assert (target.reason is None) == (
                bool(target.groups)
                and all(model.channels[name].protected is None for name in target.groups)
            )


@pytest.mark.parametrize(
    ("groups", "original", "max_fraction", "left"),
    [
        (("conv1",), {"conv1": 8}, 0.5, 4),
        (("conv1",), {"conv1": 8}, 0.8, 6),  # int(6.4) of 8 filters
        (("conv1",), {"conv1": 8}, 0.999, 7),  # never the last one
        (("conv1",), {"conv1": 8}, 0.1, 0),
        # Of the original filters, of which some have gone already.
        (("conv1",), {"conv1": 16}, 0.5, 0),
        (("conv1",), {"conv1": 16}, 0.75, 4),
        (("conv1",), {"conv1": 32}, 0.5, 0),
        # Several groups: what all of them can give.
        (("conv2", "conv3"), {"conv2": 8, "conv3": 10}, 0.5, 3),
    ],
)
def test_removable(shared, groups, original, max_fraction, left):
    assert removable(groups, shared.channels, original, max_fraction) == left


@pytest.fixture
def graded():
    """conv1's filters 6, 1, 4, 3 are the smallest, in this order; conv2's from the last on."""
    model = _shared()
    kernel, bias = model.get_layer("conv1").get_weights()
    sizes = np.array([8.0, 2.0, 7.0, 4.0, 3.0, 6.0, 1.0, 5.0])
    signs = np.where(np.arange(kernel.size).reshape(kernel.shape) % 2, 1.0, -1.0)
    model.get_layer("conv1").set_weights([signs * sizes, bias])
    kernel, bias = model.get_layer("conv2").get_weights()
    model.get_layer("conv2").set_weights([np.ones_like(kernel) * np.arange(8.0, 0.0, -1.0), bias])
    return model


@pytest.mark.parametrize(
    ("count", "conv1", "conv2"),
    [(1, (6,), (7,)), (2, (1, 6), (6, 7)), (4, (1, 3, 4, 6), (4, 5, 6, 7)), (0, (), ())],
)
def test_the_units_of_least_l1_norm_go(graded, count, conv1, conv2):
    channels = graph.analyze(graded)
    chosen = choose_units(graded, channels, ("conv1", "conv2"), count, method="l1", seed=0)
    assert chosen == {"conv1": conv1, "conv2": conv2}


def test_equal_scores_go_in_index_order(graded):
    kernel, bias = graded.get_layer("conv1").get_weights()
    graded.get_layer("conv1").set_weights([np.ones_like(kernel), bias])
    channels = graph.analyze(graded)
    chosen = choose_units(graded, channels, ("conv1",), 3, method="l1", seed=0)
    assert chosen == {"conv1": (0, 1, 2)}


@pytest.mark.parametrize("method", ["l1", "l2", "fpgm", "random"])
def test_the_choice_is_reproducible_and_can_be_removed(shared, method):
    def choose(seed):
        groups = ("conv2", "conv3")
        return choose_units(shared.model, shared.channels, groups, 3, method=method, seed=seed)

    assert choose(1) == choose(1)
    assert all(len(set(units)) == 3 for units in choose(1).values())
    if method == "random":
        assert len({str(choose(seed)) for seed in range(5)}) > 1
    pruned = graph.rebuild(shared.model, choose(1))
    assert graph.analyze(pruned)["conv2"].num_channels == 5


def test_images_are_asked_for_only_where_they_are_needed(shared):
    asked = []

    def sample():
        asked.append(True)
        rng = np.random.default_rng(0)
        return rng.random((8, 6, 6, 3), dtype=np.float32), rng.integers(0, 4, 8)

    for method in ("l1", "taylor"):
        chosen = choose_units(
            shared.model, shared.channels, ("conv1",), 2, method=method, seed=0, sample=sample
        )
        assert len(chosen["conv1"]) == 2
        assert len(asked) == (method == "taylor")


def test_a_layer_that_makes_several_groups_has_them_all():
    steps = keras.Input((6, 8), name="steps")
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    x = layers.ReLU(name="relu")(attention(steps, steps))
    attended = Analyzed(keras.Model(steps, layers.Dense(3, name="classes")(x)))
    made = {group.name for group in attended.channels.groups if "attention" in group.producers}
    assert len(made) > 1
    assert made <= set(attended.target("attention").groups)


@pytest.mark.parametrize(
    "own", [None, "categorical_crossentropy", "sparse_categorical_crossentropy"]
)
@pytest.mark.parametrize("one_hot", [False, True])
def test_a_loss_fits_the_labels_whatever_the_model_was_compiled_with(own, one_hot):
    model = _shared()
    if own is not None:
        model.compile(loss=own)
    images = np.random.default_rng(0).random((8, 6, 6, 3), dtype=np.float32)
    labels = np.arange(8) % 4
    given = np.eye(4, dtype=np.float32)[labels] if one_hot else labels
    ready = with_loss(model, [(images, given)])
    outputs = ready(images)
    loss = float(ready.compute_loss(x=images, y=given, y_pred=outputs))
    assert np.isfinite(loss)
    fits = own == ("categorical_crossentropy" if one_hot else "sparse_categorical_crossentropy")
    assert (ready is model) is fits
    if not fits:
        logits = np.asarray(outputs, np.float64)
        expected = np.log(np.exp(logits).sum(-1)) - logits[np.arange(8), labels]
        assert loss == pytest.approx(expected.mean(), rel=1e-4)
