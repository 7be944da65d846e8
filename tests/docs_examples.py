"""Runs the examples of the documentation's pages."""

from __future__ import annotations

import pathlib
import re
import sys
import types
from typing import Any

PAGES = pathlib.Path(__file__).parents[1] / "docs"


def run_section(page: str, heading: str) -> dict[str, Any]:
    """Runs a section's Python blocks in order, as a newcomer would.

    Args:
        page: For example "extending.md".
        heading: Of a section of the first level.

    Returns:
        The names that they define.
    """
    text = (PAGES / page).read_text(encoding="utf-8")
    found = re.search(rf"^# {re.escape(heading)}\n(.*?)(?=^# |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no section {heading!r}"
    # Dataclasses look their module up, as they would find that of a user's file.
    module = types.ModuleType("documented_example")
    sys.modules[module.__name__] = module
    names = module.__dict__
    for block in re.findall(r"```python\n(.*?)```", found.group(1), re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return names
