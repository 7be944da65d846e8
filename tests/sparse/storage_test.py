"""FKW storage: nothing is lost, indices are few, corrupt data are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprune_tf import sparse
from cprune_tf.sparse import FkwError, to_fkw


def sparse_weights(shape, block_size, rate=3.6, seed=0):
    weights = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    patterns = sparse.natural_patterns([weights], 8)
    kept = sparse.num_kept_at(rate, *shape[2:], block_size)
    order = sparse.order_filters(weights, patterns, max(1, shape[2] // 4), block_size)
    found = sparse.project(weights, patterns, kept, block_size=block_size, order=order)
    return weights * found.mask()


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 12), st.integers(1, 20)),
    st.integers(1, 8),
    st.floats(0, 1),
    st.integers(0, 2**31 - 1),
)
def test_any_zeros_come_back(shape, block_size, share, seed):
    """Also zeros that no projection makes: whole filters, single entries, patterns of any size."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=shape).astype(np.float32)
    weights *= (
        np.repeat(rng.random((*shape[:3], shape[3])), block_size, axis=3)[..., : shape[3]] < share
    )
    weights[..., rng.random(shape[3]) < 0.1] = 0
    compact = to_fkw(weights)
    if not weights.any():
        assert compact is None
        return
    if compact is not None:  # None: more patterns than a byte can number
        np.testing.assert_array_equal(compact.dense(), weights)
        assert compact.total_bytes == compact.index_bytes + compact.weight.nbytes


@pytest.mark.parametrize(("block_size", "limit"), [(1, 0.55), (2, 0.3), (4, 0.2), (8, 0.2)])
def test_blocks_are_found_and_their_indices_are_few(block_size, limit):
    weights = sparse_weights((3, 3, 64, 64), block_size)
    compact = to_fkw(weights)
    assert compact is not None and compact.block_size == block_size
    # A compressed sparse row has 32 bits for each weight and for each row.
    of_csr = 4 * (np.count_nonzero(weights) + 64 + 1)
    assert compact.index_bytes <= limit * of_csr
    assert compact.weight.size == np.count_nonzero(weights)
    assert list(compact.sizes) == sorted(compact.sizes, reverse=True)


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        ("index", lambda index: index + 100, "input channels of the layer"),
        ("offset", lambda offset: offset[::-1].copy(), "offsets that rise"),
        ("offset", lambda offset: offset[:-1], "offsets that rise"),
        ("stride", lambda stride: stride + 1, "as many kernels of all patterns"),
        ("reorder", lambda reorder: reorder * 0, "one place for each filter"),
        ("entries", lambda entries: entries + 9, "entries of a kernel"),
        ("weight", lambda weight: weight[1:], "finite weights of every kernel"),
        ("weight", lambda weight: weight * np.nan, "finite weights of every kernel"),
    ],
)
def test_corrupt_data_are_refused(field, change, expected):
    compact = to_fkw(sparse_weights((3, 3, 16, 16), 4))
    with pytest.raises(FkwError, match=expected):
        dataclasses.replace(compact, **{field: change(getattr(compact, field))})
