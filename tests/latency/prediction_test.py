"""Predictions from made-up measurements; nothing runs on a device."""

from __future__ import annotations

import math

import pytest

from cprune_tf.latency.points import TaskPoint, WholePoint
from cprune_tf.latency.prediction import LatencyPredictor, Overhead, fit_overhead
from cprune_tf.latency.sites import Extent, Site

_NONE = Extent(1, ())


def _extent(group, each=1.0):
    return Extent(0, ((group, each),))


def _site(name, inputs, outputs, number=0):
    return Site(((name,), "conv2d", number), (name,), name, "conv", inputs, outputs, True, 100.0)


_SITES = (
    _site("a", _extent("in"), _extent("x")),
    _site("b", _extent("x"), _extent("y")),
    _site("c", _extent("y"), _extent("x")),
)
_UNITS = {"in": 8, "x": 16, "y": 16}


def _point(inputs, outputs, latency_ms, spread_ms=0.0):
    return TaskPoint("conv", (inputs, outputs), latency_ms, spread_ms)


def _wholes(*pairs):
    return [WholePoint({}, tasks, whole) for tasks, whole in pairs]


def test_overhead_is_a_line_through_whole_models():
    overhead = fit_overhead(_wholes((1.0, 1.2), (2.0, 2.3), (4.0, 4.5)))
    assert overhead.constant_ms == pytest.approx(0.1) and overhead.per_task_ms == pytest.approx(0.1)
    assert overhead.whole_ms(3.0) == pytest.approx(3.4)
    assert overhead.deviation == pytest.approx(0, abs=1e-9)
    assert fit_overhead(_wholes((1.0, 1.2), (2.0, 2.4), (4.0, 4.5))).deviation > 0.01


def test_one_whole_model_gives_a_constant():
    assert fit_overhead(_wholes((1.0, 1.25))) == Overhead(0.25, 0.0, 0.0)
    assert fit_overhead(()).whole_ms(2.0) == 2.0


def test_measured_tasks_are_added_with_the_overhead():
    points = [_point(8, 16, 1.0), _point(16, 16, 2.0)]
    overhead = Overhead(0.5, 0.1, 0.0)
    prediction = LatencyPredictor(_SITES, _UNITS, points, overhead).predict_ms({})
    assert prediction.latency_ms == pytest.approx((1.0 + 2.0 + 2.0) * 1.1 + 0.5)
    assert prediction.uncertainty_ms == 0.0
    assert [task.latency_ms for task in prediction.per_task] == [1.0, 2.0, 2.0]


def test_subgraphs_of_one_task_err_together():
    points = [_point(8, 16, 1.0), _point(16, 16, 2.0, spread_ms=0.1349)]
    prediction = LatencyPredictor(_SITES, _UNITS, points, fit_overhead(())).predict_ms({})
    assert prediction.uncertainty_ms == pytest.approx(2 * 0.1, rel=1e-3)


def test_different_tasks_partly_cancel():
    points = [_point(8, 16, 2.0, 0.1349), _point(16, 16, 2.0, 0.1349)]
    two = LatencyPredictor(_SITES[:2], _UNITS, points, fit_overhead(())).predict_ms({})
    assert two.uncertainty_ms == pytest.approx(math.sqrt(2) * 0.1, rel=1e-3)


def test_points_of_other_models_do_not_count():
    with pytest.raises(ValueError, match="belongs to this model"):
        LatencyPredictor(_SITES, _UNITS, [TaskPoint("other", (8, 8), 1.0, 0.0)], fit_overhead(()))


def test_extents_follow_groups():
    flattened = Extent(3, (("x", 49.0), ("y", 1.0)))
    assert flattened.count({"x": 2, "y": 5}) == 3 + 98 + 5
    assert flattened.groups == ("x", "y") and _NONE.count({}) == 1
