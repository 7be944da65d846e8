"""Penalties without a state, made from functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Plain:
    """A function of the model and the progress as a penalty."""

    function: Callable[[Any, Any], Any]
    name: str = "plain"
    variables: tuple = ()

    def __call__(self, model, progress):
        return self.function(model, progress)

    def end_epoch(self, done, planned):
        return {}
