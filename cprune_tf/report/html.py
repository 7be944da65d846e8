"""Renders the report as one self-contained page: inline styles and plots, no scripts."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import markupsafe

from cprune_tf.report import figures, formats, types
from cprune_tf.runs import differences
from cprune_tf.storage import plain

_TEMPLATES = pathlib.Path(__file__).parent / "templates"

_FORMATS: dict[str, Callable[[Any], str]] = {
    "bytes": formats.file_bytes,
    "change": formats.change,
    "count": formats.count,
    "duration": formats.duration,
    "error": formats.error,
    "factor": formats.factor,
    "gflops": formats.significant,
    "macs": formats.macs,
    "ms": formats.milliseconds,
    "percent": formats.percent,
    "points": formats.points,
    "ratio": formats.ratio,
    "share": formats.share,
}


def render(report: types.Report, plots: Sequence[figures.Plot]) -> str:
    """Renders the page.

    Args:
        report: The report. Every measured number becomes a `<data>` element that carries the exact
            value and its path in report.json.
        plots: The plots to inline.

    Returns:
        The page as HTML text.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    values = plain.to_plain(report)
    environment.globals.update(
        n=_Numbers(values),
        latency_unit="emulated" if report.device.emulated else "",
        decision_name=formats.decision,
        runtime_name=formats.runtime,
        threads=formats.threads,
        flatten=differences.flatten,
        metric_name=formats.metric(report.metric),
        pruned_name="pruned" if report.finished else "so far",
    )
    by_name = {
        plot.name: {
            "title": plot.title,
            "svg": markupsafe.Markup(plot.svg),
            "narrow_svg": markupsafe.Markup(plot.narrow_svg),
        }
        for plot in plots
    }
    return environment.get_template("report.html.j2").render(r=values, plots=by_name)


class _Numbers:
    """Renders the number at a path of report.json as an HTML element."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __call__(self, path: str, kind: str) -> markupsafe.Markup:
        value: Any = self._values
        for step in path.split("."):
            value = value[int(step)] if isinstance(value, list) else value.get(step)
            if value is None:
                return markupsafe.Markup('<span class="missing">{}</span>').format(formats.MISSING)
        return markupsafe.Markup('<data value="{}" data-path="{}">{}</data>').format(
            repr(value), path, self._format(path, kind, value)
        )

    def _format(self, path: str, kind: str, value: Any) -> str:
        if kind == "size":
            entry = self._values["sizes"][int(path.split(".")[1])]
            return formats.size(entry["name"], value)
        return _FORMATS[kind](value)
