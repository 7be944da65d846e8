from __future__ import annotations

import pytest

from cprune_tf.accuracy import TOP1, AccuracyGate, Evaluation, Metric


@pytest.mark.parametrize(
    ("name", "mode", "is_minimized"),
    [
        ("top1", "auto", False),
        ("mean_absolute_error", "auto", True),
        ("size_mae", "auto", True),
        ("loss", "auto", True),
        ("mean_io_u", "auto", False),
        ("distance", "min", True),
        ("error_free_rate", "max", False),
    ],
)
def test_the_direction_follows_from_the_name_unless_it_is_said(name, mode, is_minimized):
    assert Metric.named(name, mode).is_minimized is is_minimized


def test_a_score_of_an_error_is_its_negative_and_reads_as_the_error():
    metric = Metric("mean_absolute_error", is_minimized=True)
    score = metric.score(0.25)
    assert metric.score(0.2) > score == -0.25
    assert metric.text(score) == "0.25" and metric.label == "mean absolute error"
    assert metric.limit == "at most " and not TOP1.limit


def test_names_read_as_people_write_them():
    labels = {name: Metric(name).heading for name in ("top1", "mean_io_u", "mask_iou", "size_mae")}
    assert labels == {
        "top1": "Top-1 accuracy",
        "mean_io_u": "Mean IoU",
        "mask_iou": "Mask IoU",
        "size_mae": "Size MAE",
    }
    assert Metric("kind_accuracy").word == "kind accuracy" and TOP1.word == "accuracy"


@pytest.mark.parametrize("metric", [TOP1, Metric("kind_accuracy")])
def test_accuracies_lose_points_and_other_metrics_a_part_of_their_value(metric):
    assert metric.drop(0.01, 0.5) == 0.01
    assert Metric("auc").drop(0.01, 0.5) == 0.005
    assert Metric("mae", is_minimized=True).drop(0.01, -50.0) == 0.5


def test_a_fraction_of_a_negative_score_is_further_from_zero():
    assert TOP1.scaled(0.8, 0.5) == 0.4
    assert Metric("mae", is_minimized=True).scaled(-0.8, 0.5) == -1.6


def test_a_gate_refuses_an_error_that_is_too_high():
    metric = Metric("mae", is_minimized=True)
    gate = AccuracyGate(metric.score(0.25), metric.score(0.25), metric=metric)
    assert gate.shortfall(Evaluation(metric.score(0.2))) == ""
    assert gate.shortfall(Evaluation(metric.score(0.3))) == "MAE 0.3 > 0.25"
