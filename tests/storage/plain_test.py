from __future__ import annotations

import dataclasses
import enum
import json
import pathlib

import numpy as np
import pytest

from cprune_tf.storage import plain


@dataclasses.dataclass(frozen=True)
class _Latency:
    median_ms: float
    num_threads: int


class _Color(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        (_Latency(1.5, 2), {"median_ms": 1.5, "num_threads": 2}),
        ((_Latency(np.float64(1.5), 2),), [{"median_ms": 1.5, "num_threads": 2}]),
        ({3: "x"}, {"3": "x"}),
        (float("nan"), None),
        (np.float64("inf"), None),
        ("línea\r\nzwei", "línea\r\nzwei"),
        (frozenset({"b", "a"}), ["a", "b"]),
        (pathlib.PurePosixPath("models/a.keras"), "models/a.keras"),
        (_Color.RED, "red"),
    ],
)
def test_values_serialise(value, expected):
    assert plain.to_plain(value) == expected
    text = json.dumps(plain.to_plain({"value": value}), allow_nan=False)
    assert json.loads(text) == {"value": expected}


@pytest.mark.parametrize("value", [object(), {"a": object()}, {(1, 2): "key"}, {True: "key"}, 1j])
def test_what_is_not_data_is_refused(value):
    with pytest.raises(TypeError, match="JSON"):
        plain.to_plain(value)
