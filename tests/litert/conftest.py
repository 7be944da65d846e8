from __future__ import annotations

import pytest

from cprune_tf.devices import open_device


@pytest.fixture(scope="session")
def device():
    with open_device("local") as local_device:
        yield local_device
