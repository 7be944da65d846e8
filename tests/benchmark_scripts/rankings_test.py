from __future__ import annotations

import pytest

from benchmarks import rankings, record, settings
from cprune_tf import config as configs

MODELS = [
    {"name": "a", "macs": 10, "tuned_ms": 3.0},
    {"name": "b", "macs": 20, "tuned_ms": 1.5},
    {"name": "c", "macs": 30, "tuned_ms": 4.0},
]


def test_the_best_before_may_not_be_the_best_after():
    found = rankings.rerank(MODELS, "macs", "tuned_ms")
    assert found.is_reversed
    assert (found.best_before, found.its_rank_after) == ("a", 2)
    assert (found.best_after, found.its_rank_before) == ("b", 2)
    assert found.price_of_choice == 2.0 and found.spearman == pytest.approx(0.5)


def test_the_same_order_is_not_reversed():
    found = rankings.rerank(MODELS, "tuned_ms", "tuned_ms")
    assert not found.is_reversed and found.spearman == pytest.approx(1)
    assert rankings.rerank(MODELS[:1], "macs", "tuned_ms").spearman is None
    assert rankings.ranks([2.0, 1.0, 2.0]) == [2, 1, 2]


def test_bars_have_a_direction_and_need_a_figure():
    assert record.Bar("x", 1.0, 1.0).is_met and not record.Bar("x", 1.1, 1.0).is_met
    assert record.Bar("x", 1.1, 1.0, at_least=True).is_met
    assert not record.Bar("x", None, 1.0, at_least=True).is_met


def test_a_try_overwrites_no_result(tmp_path):
    text = record.write_or_try("some_name", {"models": {"a": 1}}, tmp_path)
    assert "no result" in text and record.entries("some_name", tmp_path) == {"a": 1}
    assert not (record.RESULTS / "some_name.json").exists()
    assert record.entries("other", tmp_path) == {}


def test_changed_settings_are_validated_and_folders_left_out():
    config = configs.from_mapping({"model": "/home/me/net.keras"})
    quick = settings.changed(config, settings.QUICK)
    assert quick.tuning.trials_per_task == settings.QUICK["tuning.trials_per_task"]
    assert settings.for_result(quick)["model"] == "net.keras"
    with pytest.raises(configs.ConfigError, match="max_iterations"):
        settings.changed(config, {"strategy.max_iterations": -1})
