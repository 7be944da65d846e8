"""Projections are feasible, and nothing feasible is nearer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprune_tf.sparse import (
    natural_patterns,
    num_kept_at,
    order_filters,
    project,
    project_on_connectivity,
    project_on_patterns,
)
from cprune_tf.sparse.projection import REMOVED, block_numbers


def _weights(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


def _kept(kernel, sparse):
    return float(np.square(kernel[sparse.mask()]).sum())


def _require_feasible(sparse, shape, num_kept):
    mask = sparse.mask()
    assert mask.shape == shape
    allowed = {bytes(9), *(pattern.tobytes() for pattern in sparse.patterns.masks)}
    blocks = block_numbers(shape[3], sparse.block_size)
    num_pairs = 0
    for block in np.unique(blocks):
        filters = sparse.order[blocks == block]
        for channel in range(shape[2]):
            one, *others = (mask[:, :, channel, filter_].tobytes() for filter_ in filters)
            assert one in allowed and all(other == one for other in others)
            num_pairs += any(one)
    assert num_pairs == num_kept == int((sparse.chosen != REMOVED).sum())


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 100), st.integers(1, 5), st.integers(1, 7), st.integers(1, 4), st.data())
def test_a_projection_is_feasible(seed, inputs, outputs, block_size, data):
    kernel = _weights(seed, (3, 3, inputs, outputs))
    num_pairs = inputs * -(-outputs // block_size)
    num_kept = data.draw(st.integers(1, num_pairs))
    order = np.array(data.draw(st.permutations(range(outputs))))
    patterns = natural_patterns([kernel], 3)
    sparse = project(kernel, patterns, num_kept, block_size=block_size, order=order)
    _require_feasible(sparse, kernel.shape, num_kept)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("block_size", [1, 2])
def test_no_other_choice_of_kernels_and_patterns_keeps_more(seed, block_size):
    kernel = _weights(seed, (3, 3, 2, 3 if block_size == 1 else 4))
    patterns = natural_patterns([kernel], 2)
    num_kept = 3
    sparse = project(kernel, patterns, num_kept, block_size=block_size)
    shape = sparse.chosen.shape
    most = 0.0
    for pairs in itertools.combinations(range(sparse.chosen.size), num_kept):
        for numbers in itertools.product(range(len(patterns)), repeat=num_kept):
            chosen = np.full(sparse.chosen.size, REMOVED)
            chosen[list(pairs)] = numbers
            other = type(sparse)(patterns, sparse.order, block_size, chosen.reshape(shape))
            most = max(most, _kept(kernel, other))
    assert _kept(kernel, sparse) == pytest.approx(most)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 100), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.data())
def test_balanced_blocks_keep_equally_many_and_each_its_best(
    seed, inputs, outputs, block_size, data
):
    kernel = _weights(seed, (3, 3, inputs, outputs))
    num_blocks = -(-outputs // block_size)
    num_kept = data.draw(st.integers(1, inputs * num_blocks))
    patterns = natural_patterns([kernel], 3)
    sparse = project(kernel, patterns, num_kept, block_size=block_size, balanced=True)
    each = min(max(round(num_kept / num_blocks), 1), inputs)
    _require_feasible(sparse, kernel.shape, each * num_blocks)
    for block in range(num_blocks):
        filters = slice(block * block_size, (block + 1) * block_size)
        alone = project(kernel[..., filters], patterns, each, block_size=block_size)
        np.testing.assert_array_equal(sparse.chosen[:, block], alone.chosen[:, 0])


def test_one_of_the_two_constraints_alone():
    kernel = _weights(0, (3, 3, 8, 8))
    patterns = natural_patterns([kernel])
    every_kernel = project_on_patterns(kernel, patterns)
    _require_feasible(every_kernel, kernel.shape, 64)
    assert every_kernel.density == pytest.approx(4 / 9)
    few = project_on_connectivity(kernel, 16)
    norms = np.square(kernel).sum(axis=(0, 1))
    stays = few.mask().all(axis=(0, 1))
    assert np.array_equal(few.mask().any(axis=(0, 1)), stays) and stays.sum() == 16
    assert norms[stays].min() >= norms[~stays].max()


def test_projecting_twice_changes_nothing():
    kernel = _weights(1, (3, 3, 6, 8))
    patterns = natural_patterns([kernel])
    once = project(kernel, patterns, 6, block_size=4).mask()
    again = project(kernel * once, patterns, 6, block_size=4).mask()
    assert np.array_equal(kernel * once, kernel * once * again)


def test_filters_that_fit_together_share_a_block():
    # Filters of two kinds that read other channels, shuffled.
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat([0, 1], 8))
    reads = np.array([[1, 0], [0, 1]])[kinds].T.repeat(4, axis=0)
    kernel = rng.normal(size=(3, 3, 8, 16)) * reads
    patterns = natural_patterns([kernel])
    order = order_filters(kernel, patterns, kept_per_block=4, block_size=4)
    assert sorted(order) == list(range(16))
    assert all(len(set(kinds[order[first : first + 4]])) == 1 for first in range(0, 16, 4))
    kept = _kept(kernel, project(kernel, patterns, 16, block_size=4, order=order))
    assert kept > 1.1 * _kept(kernel, project(kernel, patterns, 16, block_size=4))


def test_filters_alone_keep_their_order():
    kernel = _weights(0, (3, 3, 2, 5))
    order = order_filters(kernel, natural_patterns([kernel]), 1, 1)
    assert order.tolist() == [0, 1, 2, 3, 4]


def test_the_rate_counts_pairs_of_channels_and_blocks():
    assert num_kept_at(3.6, 64, 64) == 1138
    assert num_kept_at(3.6, 64, 64, block_size=4) == 284
    assert num_kept_at(1, 3, 6, block_size=4) == 6
    assert num_kept_at(100, 2, 2) == 1
    with pytest.raises(ValueError, match=r"is 0.5; expected 1 or more"):
        num_kept_at(0.5, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_kept": 0}, "0 kernels are to stay; expected 1 to 4"),
        ({"num_kept": 5}, "5 kernels are to stay"),
        ({"num_kept": 1, "order": np.array([0, 0])}, "each of the 2 filters once"),
        ({"num_kept": 1, "block_size": 0}, "Blocks of 0 filters"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    kernel = _weights(0, (3, 3, 2, 2))
    with pytest.raises(ValueError, match=message):
        project(kernel, natural_patterns([kernel]), **arguments)
    with pytest.raises(ValueError, match=r"shape \(1, 1, 2, 2\); expected"):
        project(_weights(0, (1, 1, 2, 2)), natural_patterns([kernel]), 1)
