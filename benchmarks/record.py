"""Writes the results of benchmarks, with the date and the environment."""

from __future__ import annotations

import datetime
import json
import pathlib
from typing import Any

from cprune_tf.runs.environment import describe_environment

RESULTS = pathlib.Path(__file__).resolve().parent / "results"


def write(name: str, values: dict[str, Any]) -> pathlib.Path:
    """Writes one benchmark's result.

    Args:
        name: The benchmark's name, which becomes the name of the file.
        values: The result, as JSON types.

    Returns:
        The path of the written file.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    content = {"date": date, **values, "environment": describe_environment()}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
