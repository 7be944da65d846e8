"""A whole run of the strategy patdnn for LiteRT: zeros in every file, and what the report says."""

from __future__ import annotations

import io

import keras
import numpy as np
import pytest
import rich.console

import cprune_tf
from cprune_tf import report as report_lib
from cprune_tf import sparse
from cprune_tf.config import ConfigError
from cprune_tf.runs import events, read_records
from tests.pipeline import tiny_config


def _config(**own):
    config = tiny_config.get_config()
    config.runtime = "litert"
    config.strategy.name = "patdnn"
    config.strategy.patdnn.epochs = 3
    config.strategy.patdnn.learning_rate = 0.02
    config.strategy.patdnn.layer_block_sizes = ("wide=4",)
    config.training.long_term.ema = 0.9
    config.training.long_term.distill = 0.5
    for name, value in own.items():
        config.strategy.patdnn[name] = value
    return config.to_dict()


def _prune(path, workdir, **own):
    console = rich.console.Console(file=io.StringIO(), width=100)
    return cprune_tf.prune(str(path), config=_config(**own), workdir=workdir, console=console)


@pytest.fixture(scope="module")
def result(tiny_model_path, tmp_path_factory):
    return _prune(tiny_model_path, tmp_path_factory.mktemp("patdnn") / "run")


def test_the_result_has_exact_zeros_in_the_same_architecture(result, tiny_model_path):
    original, final = (
        keras.models.load_model(path) for path in (tiny_model_path, result.workdir / "final.keras")
    )
    assert [w.shape for w in final.weights] == [w.shape for w in original.weights]
    kept = sparse.load_kept(result.workdir / "models" / "patterns.npz")
    assert list(kept) == ["stem", "wide", "last"]
    for name, one in kept.items():
        kernel = np.asarray(final.get_layer(name).kernel)
        np.testing.assert_array_equal(kernel != 0, one.mask() & (kernel != 0))
    assert kept["stem"].density == pytest.approx(4 / 9)
    # All blocks keep equally many kernels: about every 3.6th.
    assert kept["last"].density == pytest.approx(4 / 9 / 3.6, rel=0.1)
    for name in ("wide", "last"):
        assert len(set((kept[name].chosen != sparse.REMOVED).sum(axis=0))) == 1
    assert kept["wide"].block_size == 4
    (step,) = result.history
    assert step["decision"] == "accepted"


def test_long_term_training_was_taken_and_files_agree(result):
    records = read_records(result.workdir / "journal.jsonl", events.RUN_EVENTS)
    found = {type(record.event): record.event for record in records}
    assert len(found[events.PatternsTrained].epochs) == 3
    assert found[events.LongTermTrained].iteration == 1
    # No kernel uses the zeros yet, so that the result may well be slower; that is no problem here.
    problems = found[events.CrossChecked].problems
    assert all("unsteady" in problem or "throttled" in problem for problem in problems)


def test_the_report_shows_patterns_and_bytes(result):
    report = report_lib.build_report(result.workdir)
    assert report.patterns.is_delivered
    stored = {one.name: one.bytes for one in report.patterns.storage}
    assert stored["sparse layers, CSR"] < stored["sparse layers, dense"] / 2
    assert stored["final.tflite"] == (result.workdir / "final.tflite").stat().st_size


def test_a_model_without_such_layers_is_refused_at_once(tiny_model_path, tmp_path):
    with pytest.raises(ConfigError, match="an override for 'no_such', which matches no layer"):
        _prune(tiny_model_path, tmp_path / "run", layer_rates=("no_such=2",))
    assert not list(tmp_path.rglob("iter_*"))
