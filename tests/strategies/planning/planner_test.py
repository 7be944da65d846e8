"""Plans over a runtime of formulas, against all choices there are."""

from __future__ import annotations

import contextlib
import itertools

import keras
import numpy as np
import pytest

from cprune_tf import graph
from cprune_tf.config import TuningConfig
from cprune_tf.latency.lab import LatencyLab
from cprune_tf.latency.points import PointStore
from cprune_tf.latency.staircase import Stair, Staircase
from cprune_tf.runtimes import RuntimeOptions
from cprune_tf.strategies.planning.allocation import GroupOptions
from cprune_tf.strategies.planning.depth import Depth
from cprune_tf.strategies.planning.options import remaining, staircase_options
from cprune_tf.strategies.planning.planner import Planner, PlannerConfig
from tests.runtimes.analytic import AnalyticRuntime


def chain(*widths):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    for number, width in enumerate(widths):
        x = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=f"c{number}")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(4, name="head")(x))


def joined(*widths):
    """One convolution over many branches: its input depends on all their groups."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    branches = [
        keras.layers.Conv2D(width, 1, name=f"b{number}")(inputs)
        for number, width in enumerate(widths)
    ]
    x = keras.layers.Conv2D(8, 3, name="join")(keras.layers.Concatenate()(branches))
    return keras.Model(inputs, keras.layers.Dense(4, name="head")(keras.layers.Flatten()(x)))


@contextlib.contextmanager
def open_lab(model, folder):
    runtime = AnalyticRuntime(None, RuntimeOptions("float32", folder, TuningConfig()))
    prepared = runtime.prepare(model)
    runtime.tune(prepared, 1)
    with PointStore(folder / "points.jsonl", runtime.fingerprint) as store:
        lab = LatencyLab(model, prepared, graph.analyze(model), runtime, store)
        lab.measure({})
        yield lab


def valued(lab, counts, seed=0):
    rng = np.random.default_rng(seed)
    return [
        GroupOptions(
            group.name,
            (*(c for c in counts if c < group.num_channels), group.num_channels),
            tuple(
                np.sort(
                    rng.uniform(-5, 0, sum(c < group.num_channels for c in counts) + 1)
                ).tolist()
            ),
        )
        for group in lab.channels.prunable
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_fits_is_measured_and_is_the_best_there_is(tmp_path, seed):
    with open_lab(chain(24, 32, 16), tmp_path) as lab:
        groups = valued(lab, (5, 8, 11, 16), seed)
        budget_ms = 0.5 * lab.tasks_ms({})
        plan = Planner(lab, PlannerConfig(max_solutions=100)).plan(groups, budget_ms)
        assert plan.measured and plan.tasks_ms <= budget_ms
        assert plan.tasks_ms == pytest.approx(lab.tasks_ms(plan.counts))
        fitting = []
        for choice in itertools.product(*(range(len(g.counts)) for g in groups)):
            counts = {g.name: g.counts[i] for g, i in zip(groups, choice, strict=True)}
            lab.measure(counts)
            if lab.tasks_ms(counts) <= budget_ms:
                fitting.append(sum(g.values[i] for g, i in zip(groups, choice, strict=True)))
        # Predictions decide what is measured: a plan may miss the best by what they overestimate.
        assert plan.value >= max(fitting) - 0.5
        assert plan.num_measured < len(lab.store.points)


def test_nothing_is_measured_twice(tmp_path):
    with open_lab(chain(24, 32), tmp_path) as lab:
        groups, planner = valued(lab, (8, 16)), Planner(lab)
        first = planner.plan(groups, 0.6 * lab.tasks_ms({}))
        again = planner.plan(groups, 0.6 * lab.tasks_ms({}))
    assert first.num_measured > 0
    assert again.num_measured == 0 and again.counts == first.counts


def test_where_nothing_fits_the_fastest_there_is_is_planned(tmp_path):
    with open_lab(chain(16, 16), tmp_path) as lab:
        plan = Planner(lab).plan(valued(lab, (8,)), 1e-6)
        assert plan.counts == {"c0": 8, "c1": 8} and plan.measured
        assert plan.tasks_ms == pytest.approx(lab.tasks_ms({"c0": 8, "c1": 8}))


def test_a_site_of_many_groups_is_planned_too(tmp_path):
    """8 groups with 3 options each: 6561 combinations at one site."""
    with open_lab(joined(*(16,) * 8), tmp_path) as lab:
        groups = valued(lab, (4, 8))
        plan = Planner(lab).plan(groups, 0.7 * lab.tasks_ms({}))
        assert plan.tasks_ms <= 0.75 * lab.tasks_ms({})
        assert set(plan.counts) == {group.name for group in groups}


def with_branches():
    """A bottleneck and a basic block, then two branches of which one has to stay."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))

    def conv(x, width, name):
        return keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=name)(x)

    x = conv(inputs, 16, "stem")
    y = conv(conv(conv(x, 24, "a1"), 16, "a2"), 16, "a3")
    x = keras.layers.Add()([x, y])
    x = keras.layers.Add()([x, conv(conv(x, 24, "b1"), 16, "b2")])
    y, z = conv(conv(x, 16, "c1"), 16, "c2"), conv(conv(x, 24, "d1"), 16, "d2")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([y, z]))
    return keras.Model(inputs, keras.layers.Dense(4, name="head")(x))


def test_sites_of_a_vanished_branch_cost_nothing(tmp_path):
    with open_lab(with_branches(), tmp_path) as lab:
        keep = {"a1": 0, "a2": 0, "stem": 8}
        assert lab.missing(keep) == 4
        lab.measure(keep)
        assert lab.missing(keep) == 0 and lab.missing({"a1": 0, "stem": 8}) == 0
        anchors = {site.anchor for site in lab.sites_at(lab.full(keep))}
        assert anchors == {site.anchor for site in lab.sites} - {"a1", "a2", "a3"}
        smaller = lab.prepare(keep)
        lab.runtime.tune(smaller, 1)
        assert lab.tasks_ms(keep) == pytest.approx(lab.runtime.tasks_ms(smaller))
        for name in ("stem", "c2"):
            with pytest.raises(ValueError, match="expected 1 to"):
                lab.prepare({name: 0})
        with pytest.raises(graph.GraphError, match="cannot vanish"):
            lab.prepare({"c1": 0, "d1": 0})


@pytest.mark.parametrize("seed", range(3))
def test_plans_that_leave_out_branches_are_the_best_of_all_choices(tmp_path, seed):
    with open_lab(with_branches(), tmp_path) as lab:
        depth = Depth(lab.channels, lab.channels)
        assert depth.vanishing == ("a1", "a2", "b1", "c1", "d1")
        rng = np.random.default_rng(seed)
        groups = []
        for name in ("stem", *depth.vanishing):
            total = lab.units[name]
            counts = (8, total) if name == "stem" else (0, 8, total)
            values = np.sort(rng.uniform(-5, 0, len(counts)))
            groups.append(GroupOptions(name, counts, tuple(values.tolist())))
        budget_ms = 0.4 * lab.tasks_ms({})
        planner = Planner(lab, PlannerConfig(max_solutions=100), depth)
        plan = planner.plan(groups, budget_ms)
        assert plan.measured and plan.tasks_ms <= budget_ms
        assert plan.tasks_ms == pytest.approx(lab.tasks_ms(plan.counts))
        lab.prepare(plan.counts)  # Everything without units may vanish together.
        best = max(value for value, ms in _choices(lab, groups) if ms <= budget_ms)
        assert plan.value >= best - 0.5


def test_sites_that_are_costed_group_by_group_may_vanish_too(tmp_path, monkeypatch):
    monkeypatch.setattr("cprune_tf.strategies.planning.planner._MAX_COMBINATIONS", 3)
    with open_lab(with_branches(), tmp_path) as lab:
        depth = Depth(lab.channels, lab.channels)
        values = {"a1": (-9.0, -1.0, 0.0), "a2": (0.0, -1.0, 0.0), "b1": (-3.0, -2.0, 0.0)}
        groups = [GroupOptions(name, (0, 8, lab.units[name]), v) for name, v in values.items()]
        planner = Planner(lab, PlannerConfig(max_solutions=100), depth)
        plan = planner.plan(groups, 0.75 * lab.tasks_ms({}))
        assert plan.measured and plan.tasks_ms <= 0.8 * lab.tasks_ms({})
        assert bool(plan.counts["a1"]) == bool(plan.counts["a2"])
        assert plan.tasks_ms == pytest.approx(lab.tasks_ms(plan.counts))


def test_too_many_conflicts_keep_all_branches(tmp_path, monkeypatch):
    monkeypatch.setattr("cprune_tf.strategies.planning.planner._MAX_CONFLICTS", 1)
    with open_lab(with_branches(), tmp_path) as lab:
        depth = Depth(lab.channels, lab.channels)
        groups = [GroupOptions(name, (0, 8, 16), (0.0, -2.0, -1.0)) for name in depth.vanishing]
        plan = Planner(lab, depth=depth).plan(groups, lab.tasks_ms({}))
    assert set(plan.counts.values()) == {16}


def _choices(lab, groups):
    """The value and the latency of each choice that a model may have."""
    for choice in itertools.product(*(range(len(g.counts)) for g in groups)):
        counts = {g.name: g.counts[i] for g, i in zip(groups, choice, strict=True)}
        if bool(counts["a1"]) != bool(counts["a2"]) or not counts["c1"] + counts["d1"]:
            continue
        lab.measure(counts)
        value = sum(g.values[i] for g, i in zip(groups, choice, strict=True))
        yield value, lab.tasks_ms(counts)


def _staircase(latencies):
    stairs = tuple(Stair(count, ms, 0.0, 0.0) for count, ms in sorted(latencies.items()))
    return Staircase("g", ("layer",), max(latencies), 0.0, stairs)


def test_options_are_right_edges():
    staircase = _staircase({32: 4.0, 31: 4.0, 24: 3.0, 20: 3.0, 16: 2.0, 8: 1.0})
    assert staircase_options(staircase, 8) == (8, 16, 24, 32)


def test_too_many_options_lose_those_that_differ_least_but_not_the_ends():
    staircase = _staircase({40: 5.0, 32: 4.0, 31: 3.85, 24: 3.0, 16: 2.0, 8: 1.0, 7: 0.95})
    options = staircase_options(staircase, 4)
    assert len(options) == 4 and options[0] == 7 and options[-1] == 40
    assert 31 not in options and 8 not in options


def test_remaining_options_end_with_what_a_group_has():
    assert remaining({"g": (4, 8, 12, 16)}, {"g": 10}) == {"g": (4, 8, 10)}
    assert remaining({"g": (4, 8)}, {"g": 4}) == {"g": (4,)}
    assert remaining({"g": (4, 8)}, {"g": 8}, ("g",)) == {"g": (0, 4, 8)}
    assert remaining({"g": (4, 8)}, {"g": 0}) == {"g": (0,)}
