"""Data of the tasks in task_models, by function, as config.data.name names them."""

from __future__ import annotations

from typing import Any

from tests.pipeline import task_models

Parts = tuple[tuple[Any, Any], tuple[Any, Any]]


def _parts(name: str) -> Parts:
    task = task_models.TASKS[name]()
    return task.train, task.validation


def binary() -> Parts:
    return _parts("binary")


def segmentation() -> Parts:
    return _parts("segmentation")


def two_heads() -> Parts:
    return _parts("two_heads")


def image_and_vector() -> Parts:
    return _parts("image_and_vector")
