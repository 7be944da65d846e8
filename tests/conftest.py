from __future__ import annotations

import pytest

from cprune_tf.devices import DeviceError, open_device
from tests.rig import emulated


@pytest.fixture(scope="session")
def rig():
    """The emulated board and phone; made by the first test that wants them."""
    try:
        return emulated.rig()
    except emulated.RigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def gpu():
    """This machine with its GPU; skips where there is none."""
    with open_device("local?gpu=cuda") as opened:
        try:
            opened.info()
        except DeviceError as error:
            pytest.skip(str(error))
        yield opened
