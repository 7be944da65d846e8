"""Runs the examples of the documentation's pages."""

from __future__ import annotations

import linecache
import pathlib
import re
import sys
import types
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ROOT / "docs"


def read_page(page: str) -> str:
    """A page's text; README.md is the repository's."""
    path = ROOT / page if page == "README.md" else PAGES / page
    return path.read_text(encoding="utf-8")


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_section(page: str, heading: str) -> dict[str, Any]:
    """Runs a section's Python blocks in order, as a newcomer would.

    Args:
        page: For example "extending.md".
        heading: Of a section of the first level.

    Returns:
        The names that they define.
    """
    text = read_page(page)
    found = re.search(rf"^# {re.escape(heading)}\n(.*?)(?=^# |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no section {heading!r}"
    return _run(python_blocks(found.group(1)), page)


def run_page(page: str) -> dict[str, Any]:
    """Runs all Python blocks of a page in order, and returns the names that they define."""
    return _run(python_blocks(read_page(page)), page)


def _run(blocks: Sequence[str], page: str) -> dict[str, Any]:
    # Dataclasses look their module up, as they would find that of a user's file.
    module = types.ModuleType("documented_example")
    sys.modules[module.__name__] = module
    names = module.__dict__
    for number, block in enumerate(blocks):
        name = f"{page}, block {number + 1}"
        # Where tracebacks and tf.function find the code of a file.
        linecache.cache[name] = (len(block), None, block.splitlines(keepends=True), name)
        exec(compile(block, name, "exec"), names)
    return names
