from __future__ import annotations

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprune_tf.compiler.structure import ProgramStructure
from cprune_tf.config import PruneConfig
from cprune_tf.runs.events import (
    ACCEPTED,
    REFUSED_ACCURACY,
    REFUSED_LATENCY,
    CandidateJudged,
    CountRuledOut,
)
from cprune_tf.strategies.cprune import CPrune, Decisions, next_step


def _structure(compute, epilogue=(), filters=64):
    return ProgramStructure(tuple(compute), tuple(epilogue), filters)


@st.composite
def structures(draw):
    compute = draw(st.lists(st.sampled_from([1, 2, 3, 4, 8, 16]), max_size=4))
    epilogue = draw(st.lists(st.sampled_from([1, 2, 4, 7, 16]), max_size=3))
    filters = draw(st.integers(min_value=1, max_value=512))
    return _structure(compute, epilogue, filters)


@pytest.mark.parametrize(
    ("compute", "filters", "too_slow", "allowance", "step"),
    [
        # The first visit: the structure step and what leaves whole vectors, or what is left.
        ([1, 4, 16, 1], 64, 0, 51, 8),
        ([1, 4, 16, 1], 64, 0, 3, 3),
        ([8, 2, 4], 64, 0, 51, 8),
        ([1, 7, 3], 21, 0, 16, 3),
        ([64], 64, 0, 51, 8),
        ([32], 32, 8, 25, 16),
        # Later: the next count that leaves a multiple of the innermost tile that is one.
        ([1, 4, 16, 1], 64, 4, 51, 16),
        ([1, 4, 16, 1], 64, 16, 51, 32),
        ([1, 4, 16, 1], 64, 32, 51, 48),
        ([1, 4, 16, 1], 60, 4, 51, 12),
        ([1, 1, 2, 16], 32, 2, 25, 16),
        # None of them is left: whole vectors; then twice as many, or what is left.
        ([1, 4, 16, 1], 64, 48, 51, 51),
        ([1, 1, 2, 16], 32, 16, 25, 24),
        ([1, 1, 2, 16], 32, 3, 12, 8),
        ([12, 1, 1, 1], 12, 1, 9, 4),
        # No inner tile at all: doubled.
        ([1, 1, 1, 1], 1, 3, 20, 6),
        ([], 64, 1, 20, 2),
        # Everything was tried, or nothing may go.
        ([1, 4, 16, 1], 64, 51, 51, None),
        ([1, 4, 16, 1], 64, 60, 51, None),
        ([1, 4, 16, 1], 64, 0, 0, None),
    ],
)
def test_next_step(compute, filters, too_slow, allowance, step):
    assert next_step(_structure(compute, filters=filters), too_slow, allowance, 8) == step


@given(structures(), st.integers(0, 600), st.integers(0, 600))
def test_next_step_grows_and_stays_within_the_allowance(structure, too_slow, allowance):
    step = next_step(structure, too_slow, allowance, 8)
    if too_slow >= allowance:
        assert step is None
    else:
        assert step is not None and too_slow < step <= allowance


@given(structures(), st.integers(0, 300))
def test_visits_end_with_the_whole_allowance(structure, allowance):
    """However often a target is refused for latency, the loop ends, having tried the most."""
    steps = []
    while (step := next_step(structure, steps[-1] if steps else 0, allowance, 8)) is not None:
        steps.append(step)
        assert len(steps) <= allowance
    assert steps == sorted(set(steps))
    assert not allowance or steps[-1] == allowance


EVENTS = [
    ("a@16", ("a",), 4, REFUSED_LATENCY),
    ("b+c@8", ("b", "c"), 2, REFUSED_ACCURACY),
    ("a@16", ("a",), 8, REFUSED_LATENCY),
    ("d@8", ("d",), 1, ACCEPTED),
    ("a@16", ("a",), 12, REFUSED_LATENCY),
]


def _recorded(events):
    state = Decisions()
    for event in events:
        state.record(*event)
    return state


def test_latency_refusals_remember_the_most_filters():
    state = _recorded(EVENTS[:3])
    assert state.too_slow == {"a@16": 8}
    state.record("a@16", ("a",), 6, REFUSED_LATENCY)
    assert state.too_slow == {"a@16": 8}


def test_accuracy_refusals_ban_the_groups_in_any_order():
    state = _recorded(EVENTS[:2])
    assert state.banned == {("b", "c")} and "b+c@8" not in state.too_slow
    other = Decisions()
    other.record("b+c@8", ("c", "b"), 2, REFUSED_ACCURACY)
    assert other.banned == state.banned


def test_an_acceptance_clears_the_visits_and_keeps_what_was_learned():
    state = _recorded(EVENTS[:3])
    assert state.visits == {"a@16": 2, "b+c@8": 1}
    state.record(*EVENTS[3])
    assert state.visits == {}
    assert state.too_slow == {"a@16": 8} and state.banned == {("b", "c")}
    assert state.num_candidates == 4


def test_a_price_rules_out_its_step_and_all_smaller_ones_but_is_no_visit():
    state = Decisions()
    state.rule_out("a@16", 4)
    state.rule_out("a@16", 2)
    assert state.too_slow == {"a@16": 4}
    assert not state.visits and not state.num_candidates


def _as_journalled(event):
    key, groups, step, decision = event
    if decision == "ruled out":
        return CountRuledOut(key, step, 1.2, "priced at 120 %")
    return CandidateJudged(
        index=0,
        iteration=0,
        key=key,
        task="conv2d",
        layers=groups,
        removed={name: step for name in groups},
        step=step,
        price_ms=0.5,
        current_latency_ms=0.6,
        measured=None,
        accuracy=None,
        current_accuracy=0.9,
        decision=decision,
        reason="",
        elapsed_sec=1.0,
        accepted=None,
    )


def _expected(events):
    state = Decisions()
    for key, groups, step, decision in events:
        if decision == "ruled out":
            state.rule_out(key, step)
        else:
            state.record(key, groups, step, decision)
    return state


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a@16", "a@12", "b+c@8"]),
            st.sampled_from([("a",), ("b", "c")]),
            st.integers(1, 16),
            st.sampled_from([ACCEPTED, REFUSED_LATENCY, REFUSED_ACCURACY, "ruled out"]),
        )
    )
)
def test_a_resumed_strategy_knows_what_was_decided(decided):
    strategy = CPrune(types.SimpleNamespace(config=PruneConfig()), None, 0.9)
    # The loop tells of the counts that were ruled out first: the order does not matter.
    for event in sorted(map(_as_journalled, decided), key=lambda e: e.kind == "candidate"):
        strategy.learn(event)
    expected = _expected(sorted(decided, key=lambda one: one[3] != "ruled out"))
    assert strategy.decisions == expected
