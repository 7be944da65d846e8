"""Renders a report as one self-contained page: inline styles and plots, no scripts."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import markupsafe

from cprune_tf.accuracy import TOP1, Metric, capitalized
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
    "error_of_points": formats.error_of_points,
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
    return render_page(
        "report.html.j2",
        report,
        plots,
        latency_unit="emulated" if report.device.emulated else "",
        decision_name=functools.partial(formats.decision, metric=report.judged_by),
        threads=formats.threads,
        runtime_name=functools.partial(formats.runtime, items=report.judged_by.items),
        metric=report.judged_by,
        metric_name=report.judged_by.label,
        pruned_name="pruned" if report.finished else "so far",
    )


def render_page(
    template: str,
    contents: Any,
    plots: Sequence[figures.Plot],
    metric: Metric = TOP1,
    **names: object,
) -> str:
    """Renders a page of this package.

    Args:
        template: The template's file name.
        contents: The dataclass that the page shows, whose plain form is `r` in the template.
        plots: The plots to inline.
        metric: What the scores on the page are of.
        **names: What else the template uses.

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
    values = plain.to_plain(contents)
    by_name = {
        plot.name: {
            "title": plot.title,
            "svg": markupsafe.Markup(plot.svg),
            "narrow_svg": markupsafe.Markup(plot.narrow_svg),
        }
        for plot in plots
    }
    numbers = _Numbers(values, metric)
    shared = {"n": numbers, "metric": metric, "flatten": differences.flatten, "plots": by_name}
    environment.filters["capitalized"] = capitalized
    environment.globals.update(shared, **names)
    return environment.get_template(template).render(r=values)


class _Numbers:
    """Renders the number at a path of the page's JSON form as an HTML element."""

    def __init__(self, values: dict[str, Any], metric: Metric) -> None:
        self._values = values
        self._formats: dict[str, Callable[[Any], str]] = {
            **_FORMATS,
            "score": functools.partial(formats.score, metric),
            "score_change": functools.partial(formats.score_change, metric),
        }

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
        return self._formats[kind](value)
