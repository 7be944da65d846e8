"""Every field of the config is read by something else than its own validation."""

from __future__ import annotations

import ast
import dataclasses
import pathlib

import pytest

from cprune_tf.config import PruneConfig, from_mapping
from cprune_tf.task import ignored_fields

_PACKAGE = pathlib.Path(__file__).parents[2] / "cprune_tf"


class _Reads(ast.NodeVisitor):
    """Collects the names of all attributes that are read outside of validations."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if "validate" not in node.name:
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            self.names.add(node.attr)
        self.generic_visit(node)


def _leaves(config, path=""):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}", field.name


def test_every_field_is_read():
    reads = _Reads()
    for path in _PACKAGE.rglob("*.py"):
        reads.visit(ast.parse(path.read_text(encoding="utf-8")))
    fields = list(_leaves(from_mapping({})))
    assert len(fields) > 100
    assert not [path for path, name in fields if name not in reads.names]


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({}, ""),
        ({"short_term": {"epochs": 2}, "long_term": {"max_steps_per_epoch": 3}}, ""),
        (
            {"short_term": {"distill": 0.5, "epochs": 2}, "recalibration_batches": 3},
            "config.training.recalibration_batches, config.training.short_term.distill",
        ),
    ],
)
def test_what_a_compiled_model_ignores_is_said(training, expected):
    settings: PruneConfig = from_mapping({"training": training})
    note = ignored_fields(settings)
    assert note.endswith(f"has no effect: {expected}.") if expected else not note
