"""Writes the results of benchmarks, with the date and the environment, and prints them."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import rich.table

from cprune_tf.runs.environment import describe_environment

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
NO_RESULT = "made with --quick, which is no result"


@dataclasses.dataclass(frozen=True)
class Bar:
    """A figure that was aimed at.

    Attributes:
        name: What it is about.
        measured: The figure; None if it could not be measured.
        limit: What it may be.
        at_least: Whether it may be larger than the limit rather than smaller.
    """

    name: str
    measured: float | None
    limit: float
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the figure is on the right side of its limit."""
        if self.measured is None:
            return False
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Returns the fields and whether the bar is met."""
        return {**dataclasses.asdict(self), "is_met": self.is_met}


def entries(name: str, folder: pathlib.Path = RESULTS) -> dict[str, Any]:
    """Returns the entries "models" of a result that was written before; none if there is none."""
    path = folder / f"{name}.json"
    models: dict[str, Any] = {}
    if path.exists():
        models = json.loads(path.read_text(encoding="utf-8"))["models"]
    return models


def write(name: str, values: dict[str, Any], folder: pathlib.Path = RESULTS) -> pathlib.Path:
    """Writes one benchmark's result.

    Args:
        name: The benchmark's name, which becomes the name of the file.
        values: The result, as JSON types.
        folder: Where the file goes.

    Returns:
        The path of the written file.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    content = {"date": date, **values, "environment": describe_environment()}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def write_or_try(name: str, values: dict[str, Any], tried_in: pathlib.Path | None) -> str:
    """Writes a result, or what a mere try of a benchmark gave, which is no result.

    Args:
        name: The benchmark's name.
        values: The result, as JSON types.
        tried_in: The folder of a try; None if it was none.

    Returns:
        A line for people: the path, and what it is.
    """
    if tried_in is None:
        return str(write(name, values))
    path = write(name, {"note": NO_RESULT, **values}, tried_in)
    return f"{path}: {NO_RESULT}"


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows that have the same columns; numbers with four digits, None as "-"."""
    table = rich.table.Table(title=title, title_justify="left")
    for name in rows[0] if rows else ():
        is_text = isinstance(rows[0][name], str)
        table.add_column(name, justify="left" if is_text else "right", no_wrap=is_text)
    for row in rows:
        table.add_row(*map(_text, row.values()))
    rich.console.Console(width=150).print(table)


def pruning_cells(checks: Mapping[str, Any]) -> list[str]:
    """What a page says of one pruned architecture.

    Args:
        checks: The fields of `zoo.Checks`.

    Returns:
        Groups, prunable ones, the share of units that can be pruned, parameters before and after,
        and the largest difference between the masked and the rebuilt model.
    """
    return [
        str(checks["groups"]),
        str(checks["prunable_groups"]),
        f"{100 * checks['prunable_units'] / checks['units']:.1f} %",
        f"{checks['params'] / 1e6:.1f} M",
        f"{checks['params_pruned'] / 1e6:.1f} M",
        f"{checks['masked_error']:.1e}",
    ]


def print_bars(bars: Sequence[Bar]) -> None:
    """Prints which figures are on the right side of their limits."""
    rows = [
        {
            "bar": bar.name,
            "measured": bar.measured,
            "limit": f"{'≥' if bar.at_least else '≤'} {bar.limit:.4g}",
            "met": "yes" if bar.is_met else "NO",
        }
        for bar in bars
    ]
    print_table("Bars", rows)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
