"""The dry run meets what a run would meet after hours, and leaves nothing behind."""

from __future__ import annotations

import io
import pathlib
import tempfile

import pytest
import rich.console

import cprune_tf
from cprune_tf.devices import DeviceError
from cprune_tf.devices.local import LocalDevice
from cprune_tf.runs import events, read_records
from cprune_tf.runs.events import RUN_EVENTS
from tests.pipeline import tiny_config


class DeviceWithoutOutputs(LocalDevice):
    """Times models, but fails when it is asked for outputs, as only the cross-check does."""

    def run_model(self, file, *inputs):
        raise DeviceError(f"{file.name}: out of memory")


def _options(console, runtime="litert", precision="float32"):
    config = tiny_config.get_config()
    config.dry_run = True
    config.runtime, config.precision = runtime, precision
    # Its parts check that training can add penalties and keep zeros.
    config.strategy.name = "latency_budget+patdnn"
    # The dry run needs none of them, and must not wait for them.
    config.tuning.trials_per_task = config.training.long_term.epochs = 100_000
    return {"config": config.to_dict(), "console": console}


def _console():
    return rich.console.Console(file=io.StringIO(), width=200)


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch) -> pathlib.Path:
    """Holds all temporary files of a test, so that other runs on this machine don't count."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def _dry_runs(folder: pathlib.Path) -> list[pathlib.Path]:
    return list(folder.glob("cprune_dry_run_*"))


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [
        ("litert", "int8"),
        pytest.param("litert", "float32", marks=pytest.mark.slow),
        pytest.param("tvm", "float32", marks=pytest.mark.slow),
    ],
)
def test_all_stages_end_and_nothing_is_kept(tiny_model_path, runtime, precision, temporary_folder):
    console = _console()
    cprune_tf.dry_run(str(tiny_model_path), **_options(console, runtime, precision))
    text = console.file.getvalue()
    assert "Dry run: done after" in text and "7/7; Cross-check: done" in text
    assert "Problem" not in text
    assert not _dry_runs(temporary_folder)


def test_what_the_last_stage_refuses_is_refused_before_the_run(
    tiny_model_path, tmp_path, temporary_folder
):
    console = _console()
    with pytest.raises(DeviceError, match="out of memory"), DeviceWithoutOutputs() as device:
        cprune_tf.prune(str(tiny_model_path), workdir=tmp_path, device=device, **_options(console))
    text = console.file.getvalue()
    assert "failed in the stage 'Cross-check'. Nothing was tuned or trained yet." in text
    kinds = {type(record.event) for record in read_records(tmp_path / "journal.jsonl", RUN_EVENTS)}
    assert events.Evaluated in kinds and events.Baseline not in kinds
    assert not list((tmp_path / "models").iterdir())
    assert not _dry_runs(temporary_folder)


@pytest.mark.slow
def test_the_callers_own_functions_are_not_called(tiny_model_path):
    def train(model):
        raise AssertionError("trained")

    console = _console()
    cprune_tf.dry_run(
        str(tiny_model_path), short_term_train=train, long_term_train=train, **_options(console)
    )
    assert "7/7" in console.file.getvalue()
