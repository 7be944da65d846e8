from __future__ import annotations

import json

import pytest

from cprune_tf.config import MeasureConfig
from cprune_tf.latency.side_by_side import LayerTimes, compare_layers, merge_by_layers

QUICK = MeasureConfig(warmup_ms=5.0, min_samples=10, max_time_sec=0.2, stable_fraction=0.2)


def test_layers_that_either_runtime_mixes_are_one_row():
    tvm = [
        (("conv", "bn", "relu"), "conv2d", 2.0),
        (("b_conv",), "conv2d", 1.0),
        (("c_conv", "add", "relu2"), "conv2d_add", 3.0),
        ((), "transpose", 0.25),
    ]
    litert = [
        (("conv", "bn"), "Convolution", 1.0),
        (("relu",), "Clamp", 0.5),
        (("b_conv",), "Convolution", 4.0),
        (("c_conv",), "Convolution", 1.0),
        (("add", "relu2"), "Add", 0.5),
        (("flatten",), "Copy", 0.125),
        ((), "Copy", 0.0625),
        ((), "Copy", 0.0625),
    ]
    order = ["conv", "bn", "relu", "c_conv", "b_conv", "add", "relu2", "flatten"]
    assert merge_by_layers(tvm, litert, order) == (
        LayerTimes(("conv", "bn", "relu"), ("conv2d",), ("Convolution", "Clamp"), 2.0, 1.5),
        LayerTimes(
            ("c_conv", "add", "relu2"), ("conv2d_add",), ("Convolution", "Add"), 3.0, 1.5
        ),
        LayerTimes(("b_conv",), ("conv2d",), ("Convolution",), 1.0, 4.0),
        LayerTimes(("flatten",), (), ("Copy",), None, 0.125),
        LayerTimes((), ("transpose",), (), 0.25, None),
        LayerTimes((), (), ("Copy", "Copy"), None, 0.125),
    )  # fmt: skip


def test_a_shared_layer_joins_what_it_is_fused_with():
    tvm = [(("shared", "relu"), "a", 1.0), (("shared", "add"), "b", 2.0)]
    (row,) = merge_by_layers(tvm, [(("relu",), "Clamp", 1.0)], ["shared", "relu", "add"])
    assert row.layers == ("shared", "relu", "add") and row.tvm_ms == 3.0 and row.ratio == 3.0


@pytest.mark.parametrize(("tvm_ms", "litert_ms"), [(None, 1.0), (1.0, None), (1.0, 0.0)])
def test_there_is_no_ratio_to_nothing(tvm_ms, litert_ms):
    assert LayerTimes(("a",), (), (), tvm_ms, litert_ms).ratio is None


def test_a_tuned_model_is_compared_layer_by_layer(opened):
    rounds = []
    times = compare_layers(opened, QUICK, on_round=lambda *step: rounds.append(step))
    assert rounds == [(0, 3), (1, 3), (2, 3)]
    rows = {row.layers: row for row in times.rows}
    for layers in (("stem",), ("depthwise",), ("pointwise",), ("inner",)):
        assert rows[layers].tvm_ms > 0 and rows[layers].litert_ms is not None
        assert len(rows[layers].tvm) == 1
    residual = next(row for row in times.rows if "outer" in row.layers)
    assert {"outer", "add", "relu"} <= set(residual.layers)
    assert times.tvm_sum_ms == pytest.approx(sum(row.tvm_ms or 0 for row in times.rows))
    assert times.litert_sum_ms > 0 and times.litert_whole_ms > 0
    assert json.loads(json.dumps(times.to_json()))["rows"][0]["layers"] == ["stem"]
