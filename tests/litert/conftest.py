from __future__ import annotations

import numpy as np
import pytest

from cprune_tf.devices import open_device


@pytest.fixture(scope="session")
def device():
    with open_device("local") as opened:
        yield opened


@pytest.fixture
def images():
    return np.random.default_rng(0).random((64, 8, 8, 1), dtype=np.float32)
