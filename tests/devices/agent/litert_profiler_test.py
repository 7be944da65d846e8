"""LiteRT's own profiler, which its Python package does not reach."""

from __future__ import annotations

import numpy as np
import pytest

from cprune_tf.config import MeasureConfig
from cprune_tf.devices import DeviceError, open_device
from cprune_tf.devices.agent.litert_profiler import OperatorEvent, mean_times, operator_events

from .. import servers

QUICK = MeasureConfig(warmup_ms=5.0, min_samples=10, max_time_sec=0.3, stable_fraction=0.2)


@pytest.fixture(scope="module")
def two_convolutions(tmp_path_factory):
    """One convolution costs four times the multiplications of the other."""
    import keras
    from keras import layers

    from cprune_tf.litert import convert

    image = keras.Input((32, 32, 16))
    small = layers.Conv2D(16, 3, padding="same", activation="relu")(image)
    model = keras.Model(image, layers.Conv2D(64, 3, padding="same")(small))
    path = tmp_path_factory.mktemp("profiled") / "two.tflite"
    path.write_bytes(convert(model))
    return path


def test_every_operator_is_timed(device, two_convolutions):
    first, second = device.profile_litert(two_convolutions, 1, QUICK)
    assert first.name.startswith("Convolution (NHWC, F32)")
    assert (first.delegated, first.index, second.index) == (True, 0, 1)
    assert 0 < first.ms < second.ms


def test_a_board_gives_the_same_operators(device, two_convolutions):
    with (
        servers.running("--key=secret") as server,
        open_device(f"rpc://127.0.0.1:{server.port}?key=secret&reconnect_sec=2") as board,
    ):
        there = board.profile_litert(two_convolutions, 1, QUICK)
    here = device.profile_litert(two_convolutions, 1, QUICK)
    assert [one.name for one in there] == [one.name for one in here]
    assert all(one.ms > 0 for one in there)


def test_what_is_no_model_is_refused_and_the_device_goes_on(device, tmp_path, two_convolutions):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"TFL3" * 100)
    with pytest.raises(DeviceError, match="LiteRT refused LiteRtCreateModelFromFile"):
        device.profile_litert(broken, 1, QUICK)
    with pytest.raises(DeviceError, match=r"There is no file .*missing"):
        device.profile_litert(tmp_path / "missing.tflite", 1, QUICK)
    assert device.profile_litert(two_convolutions, 1, QUICK)


# --- the profiler's structs

TEXTS = {7: "Invoke", 8: "CONV_2D", 9: "Convolution (NHWC, F32) IGEMM"}


def structs(events, memory_numbers):
    """What the library writes: tag, type, start, elapsed, memory twice, two numbers, source."""
    words = 4 + 2 * memory_numbers + 3
    rows = np.zeros((len(events), words), np.int64)
    for row, (tag, kind, elapsed, index) in zip(rows, events, strict=True):
        row[0], row[1], row[2], row[3] = tag, kind, 1_000_000, elapsed
        row[4 + 2 * memory_numbers] = index
        row[-1] = 2
    rest = np.full(4096, 0xA5, np.uint8)
    return np.concatenate([rows.view(np.uint8).ravel(), rest])


@pytest.mark.parametrize("memory_numbers", [2, 3, 5])
def test_events_are_read_whatever_the_size_of_the_memory_figures(memory_numbers):
    memory = structs(
        [(7, 1, 200, 0), (9, 8, 80, 3), (8, 2, 30, 5), (9, 4, 7, 1), (7, 32, 0, 0)], memory_numbers
    )
    assert operator_events(memory, 5, TEXTS.__getitem__) == [
        OperatorEvent(TEXTS[9], True, 3, 80),
        OperatorEvent(TEXTS[8], False, 5, 30),
        OperatorEvent(TEXTS[9], True, 1, 7),
    ]


def test_another_layout_is_an_error_before_any_address_is_followed():
    def forbidden(address):
        raise AssertionError(address)

    memory = structs([(7, 1, 200, 0), (9, 8, 80, 3)], 3)
    with pytest.raises(RuntimeError, match="not the layout of ai-edge-litert 2"):
        operator_events(np.concatenate([memory[:8], memory]), 2, forbidden)  # a field more at first
    with pytest.raises(RuntimeError, match=r"types \[3, 8\]"):
        operator_events(structs([(7, 3, 200, 0), (9, 8, 80, 3)], 3), 2, forbidden)


def test_times_are_means_of_the_middle_half():
    runs = [[OperatorEvent("a", True, 0, us), OperatorEvent("b", False, 4, 9)] for us in (5,) * 6]
    runs += [[OperatorEvent("a", True, 0, us), OperatorEvent("b", False, 4, 9)] for us in (6, 900)]
    runs[0][0] = OperatorEvent("a", True, 0, 0)
    assert mean_times(runs) == [("a", True, 0, 0.005), ("b", False, 4, 0.009)]


def test_runs_that_differ_are_an_error():
    runs = [[OperatorEvent("a", True, 0, 1)], [OperatorEvent("b", True, 0, 1)]]
    with pytest.raises(RuntimeError, match="2 different sequences of operators over 2 runs"):
        mean_times(runs)
