from __future__ import annotations

import numpy as np
import pytest

from cprune_tf.data.batches import in_batches


def test_arrays_are_cut_at_the_same_places_and_nothing_is_lost():
    images, labels = np.arange(14).reshape(7, 2), np.arange(7)
    cut = list(in_batches(3, images, labels))
    assert [len(part) for _, part in cut] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in cut]), images)
    np.testing.assert_array_equal(np.concatenate([part for _, part in cut]), labels)


def test_arrays_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"lengths \[2, 3\]; expected equal"):
        list(in_batches(2, np.zeros(2), np.zeros(3)))
