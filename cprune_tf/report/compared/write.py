"""Writes all forms of a comparison of strategies into its directory."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import typing

from cprune_tf.report import formats, html
from cprune_tf.report.build import ReportError
from cprune_tf.report.compared import figure, types
from cprune_tf.storage import codec, files

JSON_NAME = "comparison.json"
HTML_NAME = "comparison.html"
PNG_NAME = "comparison.png"


@dataclasses.dataclass(frozen=True)
class WrittenComparison:
    """A comparison and the paths of its files.

    Attributes:
        comparison: The comparison.
        json_path: Path of the machine-readable form, which also keeps the joint measurement.
        html_path: Path of the page.
    """

    comparison: types.Comparison
    json_path: pathlib.Path
    html_path: pathlib.Path


def write_comparison(workdir: pathlib.Path, comparison: types.Comparison) -> WrittenComparison:
    """Writes comparison.json, comparison.html and, if there is a plot, comparison.png.

    Args:
        workdir: The directory of the comparison.
        comparison: The comparison.

    Returns:
        The comparison and the paths of its files.

    Raises:
        StorageError: If a file cannot be written.
    """
    files.write_json(workdir / JSON_NAME, comparison)
    page = html.render_page(
        "comparison.html.j2",
        comparison,
        figure.plots(comparison),
        metric=comparison.judged_by,
        threads=formats.threads,
    )
    files.write_bytes(workdir / HTML_NAME, page.encode("utf-8"))
    png = figure.png(comparison)
    if png is None:
        (workdir / PNG_NAME).unlink(missing_ok=True)
    else:
        files.write_bytes(workdir / PNG_NAME, png)
    return WrittenComparison(comparison, workdir / JSON_NAME, workdir / HTML_NAME)


def read_timing(workdir: pathlib.Path) -> types.Timing | None:
    """Reads the joint measurement of an earlier session.

    Args:
        workdir: The directory of the comparison.

    Returns:
        The measurement; None if there is none.

    Raises:
        ReportError: If comparison.json is damaged.
    """
    path = workdir / JSON_NAME
    if not path.is_file():
        return None
    try:
        fields = typing.cast(dict[str, typing.Any], json.loads(path.read_text(encoding="utf-8")))
        timing = fields["timing"]
        return None if timing is None else codec.from_fields(types.Timing, timing, "timing")
    except (ValueError, KeyError, TypeError) as error:
        raise ReportError(
            f"{path} cannot be read ({error}); remove it, and all results are timed once more."
        ) from error
