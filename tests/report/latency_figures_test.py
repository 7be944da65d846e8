from __future__ import annotations

import matplotlib.image
import pytest
import rich.console

from cprune_tf.compiler.profiling import TaskProfile
from cprune_tf.compiler.roofline import Bandwidth, Roofline
from cprune_tf.latency.profile import ModelProfile, ProfiledTask
from cprune_tf.latency.side_by_side import LayerTimes, SideBySide
from cprune_tf.latency.staircase import Stair, Staircase
from cprune_tf.report import latency_figures, latency_tables

_ROOFLINE = Roofline(1, 100.0, (Bandwidth(16384, 200.0), Bandwidth(2**26, 20.0)))


def _staircase(name, total=32):
    stairs = tuple(Stair(n, 0.01 * n, 0.002 * n, 0.001) for n in range(8, total + 1, 8))
    return Staircase(name, (name,), total, 0.5, stairs)


def _profile():
    task = TaskProfile(
        "conv2d_add", (("conv1", "bn1"), ("conv2", "bn2")), 2, 4e6, 50_000, 0.1, 0.2, 0.8, 40.0,
        "compute", 0.4, "1x4 | epilogue 1x4", "winograd", 16, (4, 8, 12, 16),
    )  # fmt: skip
    return ModelProfile((ProfiledTask(task, ("conv1", "conv2"), 0.11),), _ROOFLINE, 1, 0.25, 0.22)


def _text(renderable):
    console = rich.console.Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


@pytest.mark.parametrize("count", [1, 3, 4])
def test_staircases_are_drawn(tmp_path, count):
    path = tmp_path / "staircases.png"
    latency_figures.write_staircase_figure(path, [_staircase(f"c{i}") for i in range(count)], "t")
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[0] > 200 and pixels.shape[1] > 400 and pixels.std() > 0.01
    assert [entry.name for entry in tmp_path.iterdir()] == ["staircases.png"]


def test_profiles_and_predictions_are_drawn(tmp_path):
    latency_figures.write_profile_figure(tmp_path / "profile.png", _profile(), "tiny")
    series = [("one", [(1.0, 1.1, 0.1), (2.0, 1.9, 0.1)]), ("two", [(3.0, 3.1, 0.2)])]
    latency_figures.write_prediction_figure(tmp_path / "prediction.png", series)
    for name in ("profile.png", "prediction.png"):
        assert matplotlib.image.imread(tmp_path / name).std() > 0.01


def test_the_profile_table_says_what_the_overhead_is():
    text = _text(latency_tables.profile_table(_profile()))
    assert "conv1, conv2" in text and "winograd" in text
    assert "multiples of 4 up to 16" in text
    assert "12.0 % of the whole" in text and "100 GFLOPS" in text


def test_the_staircase_table_lists_the_steps():
    text = _text(latency_tables.staircase_table([_staircase("conv1")]))
    for count in (32, 24, 16, 8):
        assert f"{count}: " in text


def test_the_side_by_side_table_shows_both_runtimes_and_what_is_missing():
    rows = (
        LayerTimes(("conv", "relu"), ("conv2d",), ("Convolution", "Clamp"), 0.3, 0.2),
        LayerTimes((), (), ("Copy",), None, 0.05),
    )
    table = latency_tables.side_by_side_table(SideBySide(rows, 0.4, 0.5, 2))
    text = _text(table).replace("\u00a0", " ")
    lines = {line.strip().split("  ")[0]: line for line in text.splitlines()}
    shown = lines["conv, relu"]
    assert "Convolution, Clamp" in shown and "0.300 ms" in shown and "0.200 ms" in shown
    assert "1.50" in shown
    assert " - " in lines["(layers unknown)"] and "50.0 µs" in lines["(layers unknown)"]
    assert "LiteRT: whole model 0.500 ms, sum of the above 0.250 ms, 2 threads" in text
