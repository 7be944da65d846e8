"""A board that is gone without a word; run by rpc_test.py in a private network, which it cuts."""

from __future__ import annotations

import threading
import time

import pytest

from cprune_tf.devices import DeviceUnreachableError, open_device
from cprune_tf.devices.agent.keepalive import SILENCE_SEC

from . import libraries, private_network, servers

RECONNECT_SEC = 2
pytestmark = pytest.mark.skipif(not private_network.is_private(), reason="it cuts the network")


def test_a_board_that_vanishes_in_a_measurement_is_noticed_and_is_free_when_it_is_back(tmp_path):
    library = libraries.build_native(tmp_path)
    with servers.running() as server:
        name = f"rpc://127.0.0.1:{server.port}?reconnect_sec={RECONNECT_SEC}"
        with open_device(name) as device:
            device.time_kernel(library, "nothing", [], min_repeat_ms=0)
            cut = []

            def pull_the_cable():
                private_network.switch(on=False)
                cut.append(time.monotonic())

            threading.Timer(1.0, pull_the_cable).start()
            with pytest.raises(DeviceUnreachableError, match=r"cannot be reached.*--resume"):
                device.time_kernel(
                    library, "doze", [], number=1, repeat=3000, min_repeat_ms=0, timeout_sec=400
                )
            # What connects again gives up after ten seconds.
            assert time.monotonic() - cut[0] <= SILENCE_SEC + RECONNECT_SEC + 20
            private_network.switch(on=True)
            device.time_kernel(library, "nothing", [], min_repeat_ms=0)
