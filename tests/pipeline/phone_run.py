"""Prunes for the emulated phone.

By device_test.py, in a private network:

python -m tests.pipeline.phone_run MODEL WORKDIR unplugged   the first attempt loses the phone
python -m tests.pipeline.phone_run MODEL WORKDIR int8        for int8 in LiteRT
"""

from __future__ import annotations

import os
import pathlib
import sys
import threading
import time

from cprune_tf.devices import DeviceUnreachableError, open_device
from tests.devices import private_network
from tests.devices.servers import wait_for
from tests.pipeline import device_run
from tests.rig import emulated
from tests.rig import phone as emulated_phone

DEVICE = "adb:?reconnect_sec=2"


def main(model_path: str, workdir: pathlib.Path, what: str) -> None:
    assert private_network.is_private(), "adbd is an unauthenticated shell"
    rig = emulated.rig()
    os.environ["CPRUNE_TF_BUNDLES"] = str(rig.bundles)
    home = workdir.parent / "home"
    home.mkdir()
    with emulated_phone.adb_server(rig, home), emulated_phone.plugged_in(rig) as phone:
        if what == "int8":
            device_run.prune(model_path, DEVICE, workdir, int8=True)
            with open_device(DEVICE) as device:
                device_run.check_same_scores(workdir, device)
            return
        _lost(phone, model_path, workdir)
        measured = device_run.num_records(workdir)
        phone.plug_in()
        device_run.prune(model_path, DEVICE, workdir, resume=True)
        assert device_run.num_records(workdir) > measured >= 3


def _lost(phone: emulated_phone.EmulatedPhone, model_path: str, workdir: pathlib.Path) -> None:
    unplugged = []

    def unplug() -> None:
        wait_for(lambda: device_run.num_records(workdir) >= 3)
        phone.unplug()
        unplugged.append(time.monotonic())

    cable = threading.Thread(target=unplug)
    cable.start()
    try:
        device_run.prune(model_path, DEVICE, workdir)
    except DeviceUnreachableError as error:
        print(f"{time.monotonic() - unplugged[0]:.0f} s after the cable was pulled: {error}")
        assert "There is no phone" in str(error) and "--resume" in str(error), error
    else:
        raise AssertionError("the run did not end when the phone was unplugged")
    cable.join()


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3])
