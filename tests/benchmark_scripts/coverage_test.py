"""The page about Keras's layers and functions says what the registries say."""

from __future__ import annotations

import keras
import pytest

from benchmarks import coverage, coverage_cases


def test_the_page_agrees_with_the_registries():
    assert coverage.PAGE.read_text(encoding="utf-8") == coverage.page(coverage.read_result()), (
        "docs/coverage.md is not what the registries say: run python benchmarks/coverage.py"
    )


def test_every_layer_and_function_of_keras_has_a_row():
    result = coverage.read_result()
    if keras.__version__ != result["keras"]:
        pytest.skip(f"the page was made with Keras {result['keras']}")
    assert list(result["layers"]) == list(coverage_cases.layer_rows())
    assert list(result["ops"]) == list(coverage_cases.op_rows())


@pytest.mark.parametrize("name", ["relu", "split", "logical_and"])
def test_the_kind_of_a_function_is_the_key_of_its_rule_and_converter(name):
    (kind,) = coverage_cases.kinds(coverage_cases.op_model(name))
    assert kind == "ops." + "".join(part.capitalize() for part in name.split("_"))
