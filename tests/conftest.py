from __future__ import annotations

import pytest

from tests.rig import emulated


@pytest.fixture(scope="session")
def rig():
    """The emulated board and phone; made by the first test that wants them."""
    try:
        return emulated.rig()
    except emulated.RigError as error:
        pytest.skip(str(error))
