from __future__ import annotations

import pathlib

import pytest

from cprune_tf.devices import DeviceError, open_device
from tests.rig import emulated

# Whole files go to one worker each, so the longest ones begin first: else one worker ends minutes
# after the others. The rest keeps its order.
_LONGEST_FILES = (
    "pipeline/kill_test.py",
    "pipeline/api_test.py",
    "pipeline/tasks_test.py",
    "devices/phone_test.py",
    "cli/measuring_test.py",
    "pipeline/litert_test.py",
    "graph/properties_test.py",
    "graph/vanishing_properties_test.py",
    "cli/tasks_test.py",
    "cli/prune_test.py",
    "training/trainer_test.py",
    "training/checkpoint_test.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; needs --no-loadscope-reorder to count."""
    root = pathlib.Path(__file__).parent
    ranks = {root / name: rank for rank, name in enumerate(_LONGEST_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


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
