from __future__ import annotations

import json

import pytest

from cprune_tf.latency.sampling import SamplingConfig, first_counts, next_count
from cprune_tf.latency.staircase import (
    Stair,
    Staircase,
    StaircaseError,
    load_staircases,
    save_staircases,
)


def _staircase(latencies, group="conv"):
    stairs = tuple(Stair(n, ms, 0.5, 0.01 * n) for n, ms in sorted(latencies.items()))
    return Staircase(group, ("conv", "other"), max(latencies), 3.0, stairs)


def _by_tiles(count, tile=8):
    """Latency of a program with one filter tile; an incomplete tile costs as much as three."""
    return 1.0 + count // tile + (3.0 if count % tile else 0.0)


def test_keeping_more_is_always_allowed():
    staircase = _staircase({8: 1.0, 12: 9.0, 16: 2.0, 20: 6.0, 24: 3.0})
    assert [staircase.latency_ms(n) for n in (8, 12, 16, 20, 24)] == [1.5, 2.5, 2.5, 3.5, 3.5]
    assert staircase.uncertainty_ms(12) == pytest.approx(0.16)
    # Between two measured counts, the latency at the larger one applies.
    assert staircase.latency_ms(9) == 2.5 and staircase.latency_ms(1) == 1.5


def test_steps_are_the_right_edges_of_plateaus():
    staircase = _staircase({4: 1.0, 8: 1.005, 12: 9.0, 16: 2.0, 20: 6.0, 24: 3.0})
    assert staircase.steps() == (24, 16, 8)
    assert staircase.steps(tolerance=0.0) == (24, 16, 8, 4)
    for larger, smaller in zip(staircase.steps(), staircase.steps()[1:], strict=False):
        assert staircase.latency_ms(smaller) < staircase.latency_ms(larger)


@pytest.mark.parametrize("count", [0, -1, 25])
def test_a_count_that_cannot_be_kept_is_refused(count):
    with pytest.raises(ValueError, match="expected 1 to 24"):
        _staircase({8: 1.0, 24: 3.0}).latency_ms(count)


def test_stairs_must_reach_the_whole_group():
    with pytest.raises(StaircaseError, match="ascending"):
        Staircase("conv", ("conv",), 24, 0.0, (Stair(8, 1.0, 0.0, 0.0),))


def test_staircases_are_read_back_as_written(tmp_path):
    path = tmp_path / "staircases.json"
    written = [_staircase({8: 1.0, 16: 2.0}), _staircase({4: 1.0, 8: 2.0}, "second")]
    save_staircases(path, written)
    assert load_staircases(path) == {"conv": written[0], "second": written[1]}


@pytest.mark.parametrize("content", [None, "{", "[]", '{"version": 99, "staircases": []}'])
def test_a_file_without_staircases_is_named(tmp_path, content):
    path = tmp_path / "staircases.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StaircaseError, match=r"staircases\.json"):
        load_staircases(path)


def test_a_stair_with_unknown_fields_is_refused(tmp_path):
    path = tmp_path / "staircases.json"
    save_staircases(path, [_staircase({8: 1.0})])
    content = json.loads(path.read_text())
    content["staircases"][0]["stairs"][0]["colour"] = "red"
    path.write_text(json.dumps(content))
    with pytest.raises(StaircaseError, match="colour"):
        load_staircases(path)


def test_first_counts_keep_the_structure():
    config = SamplingConfig(smallest=0.25, first_points=5, max_points=9)
    counts = first_counts(64, tuple(range(64, 0, -8)), config)
    assert counts[0] == 64 and counts[-1] == 16 and len(counts) == 5
    assert all(count % 8 == 0 for count in counts)
    # Without a structure to keep, the counts form an even grid.
    assert first_counts(64, (), config) == (64, 52, 40, 28, 16)


def test_a_tiny_group_is_sampled_whole():
    counts = first_counts(3, (), SamplingConfig(smallest=0.1))
    assert counts == (3, 2, 1)


def test_the_steepest_interval_is_divided_and_plateaus_are_not():
    config = SamplingConfig(noise=0.05)
    flat = {8: 1.0, 16: 1.01, 24: 1.02, 32: 1.03}
    assert next_count(flat, config) is None
    assert 16 < next_count({**flat, 24: 3.0, 32: 3.0}, config) < 24
    assert next_count({8: 1.0, 9: 2.0}, config) is None
    # A count that a larger count beats is no step: 20 beats 16, so no count is chosen between.
    beaten = {16: 2.0, 20: 1.99, 24: 3.0}
    assert 20 < next_count(beaten, config) < 24
    # A single slow count does not distract from the interval in which the staircase falls.
    assert 40 < next_count({32: 1.0, 37: 9.0, 40: 1.05, 64: 2.0}, config) < 64
    # But if latency is rugged in an interval, a fast count may be hidden there.
    assert next_count({16: 5.0, 24: 5.0, 32: 2.0}, config) in range(17, 32)
    assert next_count({31: 5.0, 33: 2.0}, SamplingConfig(noise=0.1)) is None
    # A coarser resolution ends the search earlier.
    assert next_count({8: 1.0, 16: 2.0}, SamplingConfig(resolution=8)) is None


def test_dividing_finds_the_edges_of_a_real_staircase():
    config = SamplingConfig(max_points=40, smallest=0.2)
    latencies = {n: _by_tiles(n) for n in first_counts(64, (), config)}
    while len(latencies) < config.max_points:
        cut = next_count(latencies, config)
        if cut is None:
            break
        assert cut not in latencies
        latencies[cut] = _by_tiles(cut)
    assert {64, 56, 48, 40, 32, 24, 16} <= set(_staircase(latencies).steps())


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="first_points is 9 and max_points is 4"):
        SamplingConfig(first_points=9, max_points=4)
