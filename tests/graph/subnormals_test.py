from __future__ import annotations

import keras
import numpy as np

from cprune_tf.graph import count_subnormals, flush_subnormals


def test_only_subnormal_weights_become_zero():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    kernel, bias = model.get_weights()
    kernel[0, 0], kernel[1, 1], kernel[2, 2] = 1e-39, -1e-45, 1.2e-38
    model.set_weights([kernel, bias])
    assert count_subnormals(model) == 2
    assert flush_subnormals(model) == 2
    expected = np.where(np.abs(kernel) < 1.1e-38, 0, kernel)
    np.testing.assert_array_equal(model.get_weights()[0], expected)
    assert model.get_weights()[0][2, 2] and not count_subnormals(model)
    assert flush_subnormals(model) == 0
