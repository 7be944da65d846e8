"""The emulated phone for phone_checks.py and phone_faults.py."""

from __future__ import annotations

import numpy as np
import pytest

from cprune_tf.devices import ModelFile, adb
from tests.devices import libraries
from tests.rig import phone as emulated_phone
from tests.rig.phone import SERIAL

RECONNECT_SEC = 10


@pytest.fixture(scope="module")
def adb_server(rig, tmp_path_factory):
    with emulated_phone.adb_server(rig, tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def phone(rig, adb_server):
    with emulated_phone.plugged_in(rig) as plugged_in:
        yield plugged_in


@pytest.fixture(scope="module")
def device(rig, phone):
    with adb.AdbDevice(SERIAL, bundle_dir=rig.bundles, reconnect_sec=RECONNECT_SEC) as opened:
        yield opened


@pytest.fixture(scope="module")
def dense(device, tmp_path_factory):
    """A small model compiled for the phone, and what it computes."""
    import tvm

    from cprune_tf.compiler.building.linker import linker_for

    weights = np.random.default_rng(1).normal(size=(16, 4)).astype(np.float32)
    path = tmp_path_factory.mktemp("dense") / "dense.so"
    target = tvm.target.Target(device.target())
    with target:
        built = tvm.compile(libraries.dense_module(16, 4, weights=weights), target=target)
    built.export_library(str(path), fcompile=linker_for(target))
    return ModelFile("dense", "tvm", path), weights
