"""What command lines and Python hand over becomes the same config."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cprune_tf.config import ConfigError, from_mapping
from cprune_tf.config.reading import text_lists
from cprune_tf.config.shapes import read_input_shape, write_input_shape

_PROGRAM = """
from ml_collections import config_flags
from cprune_tf.cli import command_line
from cprune_tf.config import default_config, from_mapping
config = config_flags.DEFINE_config_dict("config", default_config())
def main(argv):
    read = from_mapping(config.value)
    print([read.protect, read.data.class_names, read.data.mean])
command_line.run_main(main)
"""


@pytest.mark.parametrize("written", ["head*,stem", "head*, stem", "('head*','stem')"])
def test_lists_on_a_command_line_have_several_items(written):
    flags = [f"--config.protect={written}", f"--config.data.class_names={written}"]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *flags, "--config.data.mean=1.0,2.0,3.0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = ("head*", "stem")
    assert done.stdout.strip() == str([names, names, (1.0, 2.0, 3.0)]), done.stderr


def test_the_lists_of_texts_are_known():
    expected = (
        "compared_precisions",
        "protect",
        "data.class_names",
        "strategy.patdnn.layer_rates",
        "strategy.patdnn.layer_block_sizes",
        "quantization.keep_float",
    )
    assert text_lists() == expected


@pytest.mark.parametrize("given", ["a,b", ("a", "b"), ["a,b"]])
def test_lists_in_python(given):
    assert from_mapping({"protect": given}).protect == ("a", "b")


def test_a_comma_in_one_of_several_names_stays():
    names = ("tench, Tinca tinca", "goldfish")
    assert from_mapping({"data": {"class_names": names}}).data.class_names == names


def test_a_class_name_twice_is_refused():
    with pytest.raises(ConfigError, match=r"data\.class_names is .* expected different names"):
        from_mapping({"data": {"class_names": ("a", "b", "a")}})


def test_a_run_at_int8_refuses_files_with_int8_inputs():
    fields = {"precision": "int8", "quantization": {"inputs": "int8"}}
    with pytest.raises(ConfigError, match=r"quantization\.inputs is .*tools/quantize\.py"):
        from_mapping(fields)
    assert from_mapping({"quantization": {"inputs": "int8"}}).precision == "float32"


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("", {}),
        ("224,224,3", {"": (224, 224, 3)}),
        ("image=224, 224,3;vector=8", {"image": (224, 224, 3), "vector": (8,)}),
        ("a b;c=d=8,3;x=1", {"a b;c=d": (8, 3), "x": (1,)}),
    ],
)
def test_shapes_of_inputs_as_text(text, shapes):
    assert read_input_shape(text) == shapes
    assert read_input_shape(write_input_shape(shapes.get("", shapes))) == shapes


@pytest.mark.parametrize("text", ["8x8", "a=0", "a=1;a=2", "a=1;3", "a=", "8,-1"])
def test_other_texts_are_no_shapes(text):
    with pytest.raises(ConfigError, match=r"input_shape \(--input_shape\) is .*'224,224,3'"):
        from_mapping({"input_shape": text})
