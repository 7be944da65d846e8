"""Natural patterns are those of the paper: the centre, and the largest of the other entries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cprune_tf.sparse import default_num_entries, natural_patterns

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
_CORNER = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]], bool)


def _kernels(*masks):
    """Weights whose kernels have these natural patterns, [3, 3, 1, len(masks)]."""
    noise = np.random.default_rng(0).uniform(0.01, 0.1, (3, 3, 1, len(masks)))
    return np.where(np.moveaxis(np.array(masks), 0, -1)[:, :, np.newaxis], 1.0, noise)


def test_the_most_frequent_patterns_come_first_with_their_shares():
    found = natural_patterns([_kernels(_CROSS, _CORNER), -_kernels(_CROSS, _CROSS)], 2)
    assert np.array_equal(found.masks, [_CROSS, _CORNER])
    assert found.shares == (0.75, 0.25)
    assert found.kernel_size == (3, 3) and found.num_entries == 4 and len(found) == 2


def test_the_centre_stays_however_small_it_is():
    kernel = _kernels(np.ones((3, 3), bool))
    kernel[1, 1] = 0
    (mask,) = natural_patterns([kernel]).masks
    assert mask[1, 1] and mask.sum() == 4


def test_a_large_model_has_at_most_the_56_patterns_of_the_paper():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 64, 64))
    patterns = natural_patterns([kernel], 1000)
    assert len(patterns) == 56 and sum(patterns.shares) == pytest.approx(1)
    assert len({mask.tobytes() for mask in patterns.masks}) == 56


@pytest.mark.parametrize(
    ("size", "entries"), [((3, 3), 4), ((1, 1), 1), ((1, 3), 2), ((3, 1), 2), ((5, 5), 12)]
)
def test_other_sizes_keep_the_same_share(size, entries):
    assert default_num_entries(*size) == entries
    kernel = np.random.default_rng(0).normal(size=(*size, 8, 8))
    patterns = natural_patterns([kernel], 4)
    assert patterns.num_entries == entries
    assert patterns.masks[:, (size[0] - 1) // 2, (size[1] - 1) // 2].all()


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.float32, (3, 3, 3, 4), elements=st.integers(-3, 3)),
    st.integers(2, 6),
    st.integers(1, 12),
)
def test_each_pattern_is_the_natural_one_of_its_share_of_kernels(kernel, num_entries, num_patterns):
    patterns = natural_patterns([kernel], num_patterns, num_entries)
    flat = kernel.reshape(9, -1).T
    found = []
    for row in flat:
        others = sorted(set(range(9)) - {4}, key=lambda entry: (-abs(row[entry]), entry))
        mask = np.zeros(9, bool)
        mask[[4, *others[: num_entries - 1]]] = True
        found.append(mask.tobytes())
    shares = [found.count(mask.tobytes()) / len(found) for mask in patterns.masks]
    assert shares == pytest.approx(list(patterns.shares))
    assert shares == sorted(shares, reverse=True)
    rest = set(found) - {mask.tobytes() for mask in patterns.masks}
    assert not rest or len(patterns) == num_patterns
    assert all(found.count(mask) / len(found) <= shares[-1] for mask in rest)


def test_kernels_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match=r"sizes \[\(1, 1\), \(3, 3\)\]; expected one"):
        natural_patterns([np.ones((3, 3, 1, 1)), np.ones((1, 1, 1, 1))])


@pytest.mark.parametrize(("num_patterns", "num_entries"), [(0, 4), (8, 10), (8, -1)])
def test_impossible_numbers_are_refused(num_patterns, num_entries):
    with pytest.raises(ValueError, match="expected at least one pattern"):
        natural_patterns([np.ones((3, 3, 1, 1))], num_patterns, num_entries)
