"""Groups print themselves; the graph can be drawn; the command shows both."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import keras
import pytest

from cprune_tf.graph import GraphError, analyze
from cprune_tf.graph.drawing import draw, to_dot
from tests.graph.models import functional

layers = keras.layers
ROOT = pathlib.Path(__file__).parents[2]


def _model() -> Any:
    def build(x: Any) -> Any:
        a = layers.Conv2D(4, 3, name="a")(x)
        b = layers.Conv2D(6, 3, name="b")(x)
        x = layers.BatchNormalization(name="bn")(layers.Concatenate(name="join")([a, b]))
        return layers.Dense(3, name="head")(layers.Flatten(name="flat")(x))

    return functional((4, 4, 3), build)


def test_a_group_prints_trigger_and_effects() -> None:
    text = str(analyze(_model())["b"])
    assert text.splitlines() == [
        "b: 6 units, prunable",
        "  b filters [0:6]",
        "    => join inputs [0:6]",
        "    => join channels [4:10]",
        "    => bn channels [4:10]",
        "    => flat inputs [4:10]",
        "    => flat channels [4:10, 14:20, 24:30, 34:40], 4 indices a unit",
        "    => head inputs [4:10, 14:20, 24:30, 34:40], 4 indices a unit",
    ]


def test_a_protected_group_says_why() -> None:
    text = str(analyze(_model(), ["a"]))
    assert "a: 4 units, protected: matches the protect pattern 'a'" in text
    assert "head: 3 units, protected: reaches the model's output 'head'" in text


def test_dot_names_every_layer_and_edge(tmp_path: pathlib.Path) -> None:
    graph = analyze(_model())
    dot = to_dot(graph)
    assert dot.count(" -> ") == 7
    for name in ("a", "b", "join", "bn", "flat", "head"):
        assert f'label="{name}\\n' in dot
    draw(graph, tmp_path / "graph.dot")
    assert (tmp_path / "graph.dot").read_text() == dot
    with pytest.raises(GraphError, match="expected a name ending in"):
        draw(graph, tmp_path / "graph.txt")


def test_dot_shows_who_makes_how_many_channels() -> None:
    def build(x: Any) -> Any:
        x = layers.Conv1D(6, 3, name="conv")(x)
        x = layers.MultiHeadAttention(2, 3, name="mha")(x, x)
        return layers.Dense(3, name="head")(layers.GlobalAveragePooling1D(name="pool")(x))

    lines = to_dot(analyze(functional((9, 4), build))).splitlines()
    labels = [line.split('label="')[1].split('"')[0] for line in lines if 'fillcolor="#' in line]
    assert labels == [
        "conv\\nConv1D\\ngroup conv, 6",
        "mha\\nMultiHeadAttention\\ngroup mha, 6\\nmha/heads, 2",
        "pool\\nGlobalAveragePooling1D\\ngroup mha",
        "head\\nDense\\ngroup head, 3\\nprotected",
    ]
    assert "2 groups" in next(x for x in to_dot(analyze(_model())).splitlines() if '"join' in x)


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's dot is not installed")
def test_svg(tmp_path: pathlib.Path) -> None:
    draw(analyze(_model()), tmp_path / "graph.svg")
    assert "</svg>" in (tmp_path / "graph.svg").read_text()


def test_a_picture_without_graphviz_says_what_to_do(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GraphError, match=r"install graphviz, or write 'graph\.dot'"):
        draw(analyze(_model()), tmp_path / "graph.svg")


def _inspect(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "inspect_model.py"), *flags],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def test_the_command_prints_tables_groups_and_a_drawing(tmp_path: pathlib.Path) -> None:
    _model().save(tmp_path / "model.keras")
    picture = tmp_path / "graph.dot"
    done = _inspect(
        f"--model={tmp_path / 'model.keras'}", "--protect=a", "--members", f"--draw={picture}"
    )
    assert done.returncode == 0, done.stderr
    assert "total" in done.stdout
    assert "protected: matches the protect pattern 'a'" in done.stdout
    assert "=> bn channels [4:10]" in done.stdout
    assert "1 of 3 groups prunable: 6 of 13 units" in done.stdout
    assert picture.exists()


@pytest.mark.parametrize(
    "flags", [[], ["--model=missing.keras"], ["--model=resnet8_fashion", "--protect=zzz*"]]
)
def test_a_wrong_command_line_ends_in_one_line(flags: list[str]) -> None:
    done = _inspect(*flags)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
