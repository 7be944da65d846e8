from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tvm

from cprune_tf.compiler.building.builder import ProgramBuilder
from cprune_tf.devices import open_device


@pytest.fixture(scope="session")
def device():
    with open_device("local") as opened:
        yield opened


@pytest.fixture(scope="session")
def target(device):
    return tvm.target.Target(device.target(1))


@pytest.fixture(scope="session")
def builder(target):
    with ProgramBuilder(target, num_workers=2, timeout_sec=120.0) as opened:
        yield opened


@pytest.fixture(scope="session")
def tuned(device, tmp_path_factory):
    """See workloads.tiny_resnet. Tests may add programs to its database, never rely on a count."""
    from cprune_tf.compiler.session import CompilerSession

    from . import workloads

    directory = tmp_path_factory.mktemp("tuned")
    config = workloads.FEW_TRIALS
    with CompilerSession(device, directory, config, num_threads=1, seed=3) as session:
        model = workloads.tiny_resnet()
        lowered = session.lower(model)
        session.tune(lowered, config.trials_per_task)
        yield workloads.Tuned(model, lowered, session, directory)
