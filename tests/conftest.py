from __future__ import annotations

import pathlib

import pytest

from cprune_tf.devices import DeviceError, open_device
from tests.rig import emulated

_HERE = pathlib.Path(__file__).parent
# Their tests share what takes long to make (tuned models, opened devices), so one process runs all.
_SHARING = ("cli", "compiler", "devices", "latency", "litert", "pipeline", "rig")


# First, since xdist's own hook reads the markers.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Says which tests stay together where several processes share the work."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        first, *rest = item.path.relative_to(_HERE).parts
        together = first if not rest or first in _SHARING else f"{first}/{item.path.stem}"
        if "rig" in getattr(item, "fixturenames", ()):
            together = "rig"
        item.add_marker(pytest.mark.xdist_group(together))


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
