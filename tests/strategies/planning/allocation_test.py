"""The allocation is optimal, whatever couples the groups."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprune_tf.strategies.planning.allocation import (
    BudgetError,
    GroupOptions,
    SiteCosts,
    ZeroRules,
    allocate,
)


def random_instance(seed: int):
    """A few groups coupled by sites of one, two or three of them."""
    rng = np.random.default_rng(seed)
    groups = []
    for number in range(rng.integers(1, 5)):
        counts = np.sort(rng.choice(np.arange(0, 9), size=rng.integers(1, 6), replace=False))
        values = np.sort(rng.lognormal(0, 1, len(counts)))
        groups.append(
            GroupOptions(f"g{number}", tuple(map(int, counts)), tuple(map(float, values)))
        )
    sites = []
    for number in range(rng.integers(1, 6)):
        size = int(rng.integers(1, min(3, len(groups)) + 1))
        names = rng.choice(len(groups), size=size, replace=False)
        shape = tuple(len(groups[n].counts) for n in names)
        # Not monotonic: an awkward count is slower than a larger one.
        costs = rng.lognormal(0, 1, shape)
        sites.append(SiteCosts(f"s{number}", tuple(f"g{n}" for n in names), costs))
    highest = sum(float(site.latency_ms.max()) for site in sites)
    return groups, sites, float(rng.uniform(0.1, 1.0) * highest), float(rng.uniform(0, 0.5))


def random_rules(groups, seed):
    """Some groups go with others, and some may not go together."""
    rng = np.random.default_rng(seed)
    names = [group.name for group in groups if 0 in group.counts]
    pairs = [(a, b) for a in names for b in names if a != b]
    implied = tuple(pair for pair in pairs if rng.random() < 0.3)
    forbidden = tuple(frozenset(pair) for pair in pairs if rng.random() < 0.2)
    return ZeroRules(implied, forbidden)


def obeys(rules, zeros):
    implied = all(b in zeros for a, b in rules.implied if a in zeros)
    return implied and not any(names <= zeros for names in rules.forbidden)


def brute_force(groups, sites, budget_ms, constant_ms, rules):
    """The most value of all choices that fit; None if none fits."""
    values = []
    for indices in itertools.product(*(range(len(group.counts)) for group in groups)):
        option = {group.name: index for group, index in zip(groups, indices, strict=True)}
        if not obeys(rules, {g.name for g in groups if not g.counts[option[g.name]]}):
            continue
        latency_ms = constant_ms
        for site in sites:
            latency_ms += site.latency_ms[tuple(option[name] for name in site.groups)]
        if latency_ms <= budget_ms:
            values.append(sum(g.values[i] for g, i in zip(groups, indices, strict=True)))
    return max(values, default=None)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10_000))
def test_optimal_against_brute_force(seed):
    groups, sites, budget_ms, constant_ms = random_instance(seed)
    rules = random_rules(groups, seed)
    best_value = brute_force(groups, sites, budget_ms, constant_ms, rules)
    if best_value is None:
        with pytest.raises(BudgetError, match="fit into"):
            allocate(groups, sites, budget_ms, rules=rules, constant_ms=constant_ms)
        return
    allocation = allocate(groups, sites, budget_ms, rules=rules, constant_ms=constant_ms)
    assert obeys(rules, {name for name, count in allocation.counts.items() if not count})
    assert allocation.value == pytest.approx(best_value, rel=1e-6)
    assert allocation.latency_ms <= budget_ms * (1 + 1e-8) + 1e-8
    assert allocation.gap <= 1e-6


def test_an_impossible_budget_says_how_low_it_can_get():
    groups = [GroupOptions("a", (8, 16), (1.0, 2.0))]
    sites = [SiteCosts("s", ("a",), np.array([3.0, 5.0]))]
    with pytest.raises(BudgetError, match=r"into 3 ms .*the least .* 4 ms|The least .* is 4 ms"):
        allocate(groups, sites, 3.0, constant_ms=1.0)
    assert allocate(groups, sites, 4.0, constant_ms=1.0).counts == {"a": 8}


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (SiteCosts("s", ("b",), np.ones(2)), r"depends on \['b'\]"),
        (SiteCosts("s", ("a", "a"), np.ones((2, 2))), "different groups"),
        (SiteCosts("s", ("a",), np.ones(3)), r"shape \(3,\); expected \(2,\)"),
    ],
)
def test_what_does_not_fit_together_is_named(site, expected):
    with pytest.raises(ValueError, match=expected):
        allocate([GroupOptions("a", (8, 16), (1.0, 2.0))], [site], 10.0)


def test_resnet56_is_solved_in_seconds():
    """27 inner groups that may vanish, 3 residual ones, latencies in steps of 16 filters."""
    rng = np.random.default_rng(0)
    groups, costs = {}, []
    for stage, (width, pixels) in enumerate([(16, 1024), (32, 256), (64, 64)]):
        step = width // 8
        counts = tuple(range(step, width + 1, step))
        residual = f"r{stage}"
        groups[residual] = _valued(rng, residual, counts, 9.0)
        for block in range(9):
            inner = f"i{stage}.{block}"
            groups[inner] = _valued(rng, inner, (0, *counts), 1.0)
            source = f"r{stage - 1}" if stage and block == 0 else residual
            costs += [(source, inner, pixels), (inner, residual, pixels)]
    sites = [
        SiteCosts(
            f"{a}->{b}",
            (a, b),
            np.array([[_stepped(i, o, p) for o in groups[b].counts] for i in groups[a].counts]),
        )
        for a, b, p in costs
    ]
    whole = sum(float(site.latency_ms[-1, -1]) for site in sites)
    for fraction in (0.5, 0.25):
        allocation = allocate(list(groups.values()), sites, fraction * whole, max_gap=1e-4)
        assert allocation.gap <= 1e-4 and allocation.elapsed_sec < 60
        assert allocation.latency_ms <= fraction * whole * (1 + 1e-8)
        # A greedy choice by the same fraction everywhere is worth less.
        assert allocation.value > _uniform_value(groups, sites, fraction * whole)


def _valued(rng, name, counts, weight):
    scores = np.sort(rng.lognormal(0, 1, max(counts)))[::-1]
    return GroupOptions(name, counts, tuple(weight * float(scores[:n].sum()) for n in counts))


def _stepped(inputs, outputs, pixels):
    if 0 in (inputs, outputs):
        return 0.0
    return pixels * inputs * 9 * 16 * math.ceil(outputs / 16) / 2e8 + 0.002


def _uniform_value(groups, sites, budget_ms):
    best = 0.0
    for index in range(8):
        chosen = {
            name: group.counts.index(group.counts[-8 + index]) for name, group in groups.items()
        }
        latency = sum(float(s.latency_ms[tuple(chosen[g] for g in s.groups)]) for s in sites)
        if latency <= budget_ms:
            best = max(best, sum(group.values[chosen[n]] for n, group in groups.items()))
    return best
