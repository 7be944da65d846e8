"""The example in the documentation runs and computes the same as Keras."""

from __future__ import annotations

import pathlib
import re

import keras
import pytest

from cprune_tf.compiler.importer import UnsupportedOperationError, import_model

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "importer.md"


def test_the_page_runs_and_its_converter_is_right():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["error"] < 1e-5
    assert names["outputs"].max() > 0.1  # Not all outputs are clipped to 0.
    assert names["imported"].layers_of_param["clip/factor"] == ("clip",)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, names["ScaleAndClip"](-1.0, name="wrong")(inputs))
    with pytest.raises(UnsupportedOperationError, match=r"limit is -1.0.*: wrong"):
        import_model(model)
