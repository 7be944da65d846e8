"""Draws the report's plots with matplotlib, without a display."""

from __future__ import annotations

import dataclasses
import functools
import io
import pathlib
import typing
from collections.abc import Callable
from typing import Any

from cprune_tf.accuracy import Metric
from cprune_tf.report import formats, pattern_figures, theme, types
from cprune_tf.runs.events import REFUSED_ACCURACY, REFUSED_LATENCY
from cprune_tf.storage import files

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_LAYERS = 60


@dataclasses.dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        name: The name of the plot's file, without suffix.
        title: The plot's title.
        svg: The plot as an inline SVG element.
        narrow_svg: The plot for a narrow window, if `svg` would be too wide there; otherwise "".
    """

    name: str
    title: str
    svg: str
    narrow_svg: str


def write_figures(report: types.Report, folder: pathlib.Path) -> tuple[Plot, ...]:
    """Draws the plots that the report has data for.

    Args:
        report: The report.
        folder: The folder for the PNG files; files of an earlier report are replaced or removed.

    Returns:
        The plots, for the page.
    """
    plots = []
    for name, (pattern, has_data, draw) in _PLOTS.items():
        title = pattern.format(score=report.judged_by.word)
        png = folder / f"{name}.png"
        if not has_data(report):
            png.unlink(missing_ok=True)
            continue
        files.write_bytes(png, saved(functools.partial(draw, report), theme.LIGHT, "png"))
        svg = inline_svg(functools.partial(draw, report), title, name)
        narrow = ""
        if name == "history":
            drawn = functools.partial(_draw_narrow_history, report)
            narrow = inline_svg(drawn, title, f"{name}-narrow")
        plots.append(Plot(name, title, svg, narrow))
    return tuple(plots)


def inline_svg(draw: Callable[[theme.Palette], Figure], title: str, prefix: str) -> str:
    """Draws a plot as an SVG element for a page; see `theme.themed_svg`."""
    return theme.themed_svg(saved(draw, theme.PLACEHOLDER, "svg").decode("utf-8"), title, prefix)


def saved(draw: Callable[[theme.Palette], Figure], palette: theme.Palette, kind: str) -> bytes:
    """Draws a plot in a palette and returns the bytes of its file.

    Args:
        draw: The function that draws.
        palette: The plot's colours.
        kind: "png" or "svg".

    Returns:
        The contents of the file; the same plot always gives the same bytes.
    """
    with theme.drawing(palette):
        figure = draw(palette)
        buffer = io.BytesIO()
        # Dates and versions are left out, so that the same report always gives the same bytes.
        names = ("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",)
        figure.savefig(buffer, format=kind, dpi=160, metadata=dict.fromkeys(names))
    return buffer.getvalue()


def _figure(width: float, height: float, rows: int = 1, ratios: Any = None) -> tuple[Figure, Any]:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, height_ratios=ratios)
    return figure, axes


def _unit(report: types.Report) -> str:
    return "ms (emulated)" if report.device.emulated else "ms"


def _draw_narrow_history(report: types.Report, palette: theme.Palette) -> Figure:
    return _draw_history(report, palette, width=6, legend_columns=2)


def _draw_history(
    report: types.Report, palette: theme.Palette, width: float = 13, legend_columns: int = 5
) -> Figure:
    figure, (top, bottom) = _figure(width, 5.8, rows=2, ratios=(3, 2))
    _draw_latency_steps(report, palette, top)
    _draw_accuracy_steps(report, palette, bottom)
    last = max(len(report.decisions), 1)
    bottom.set_xlim(-0.04 * last - 0.2, last * 1.04 + 0.2)
    bottom.xaxis.get_major_locator().set_params(integer=True)
    bottom.set_xlabel("candidates tried")
    handles: dict[str, Any] = {}
    for axes in (top, bottom):
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    # Matplotlib lists error bars after plain lines, but the accepted candidates should come first.
    labels = sorted(handles, key=lambda label: not label.startswith("accepted"))
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside upper left",
        ncols=legend_columns,
        handlelength=1.6,
    )
    return figure


def _draw_latency_steps(report: types.Report, palette: theme.Palette, axes: Axes) -> None:
    accepted = report.iterations
    x = [i.after_candidate for i in accepted]
    medians = [i.latency.median_ms for i in accepted]
    axes.step(
        [*x, max(len(report.decisions), *x, 0)],
        [*medians, medians[-1]],
        where="post",
        color=palette.accepted,
        linewidth=1.6,
    )
    axes.errorbar(
        x,
        medians,
        yerr=_spread([i.latency for i in accepted]),
        fmt="o",
        color=palette.accepted,
        ecolor=palette.accepted,
        markersize=5.5,
        capsize=3,
        label="accepted (quartiles)",
    )
    _draw_refused(
        report, palette, axes, lambda d: d.measured.median_ms if d.measured else d.price_ms
    )
    threads = formats.threads(accepted[0].latency.num_threads)
    axes.set_ylabel(f"latency, {_unit(report)}\n{formats.runtime(report.runtime)}, {threads}")


def unit_of(metric: Metric) -> float:
    """What scores are multiplied with in plots: per cent of accuracies, values of the others."""
    return 100 if metric.is_accuracy else metric.score(1)


def _draw_accuracy_steps(report: types.Report, palette: theme.Palette, axes: Axes) -> None:
    metric = report.judged_by
    unit = unit_of(metric)
    x = [i.after_candidate for i in report.iterations]
    values = [unit * i.accuracy for i in report.iterations]
    axes.step(
        [*x, max(len(report.decisions), *x)],
        [*values, values[-1]],
        where="post",
        color=palette.accepted,
        linewidth=1.6,
    )
    axes.plot(x, values, "o", color=palette.accepted, markersize=5.5)
    _draw_refused(
        report, palette, axes, lambda d: None if d.accuracy is None else unit * d.accuracy
    )
    if report.long_term_epochs and report.final_accuracy is not None:
        axes.plot(
            [max(len(report.decisions), 1)],
            [unit * report.final_accuracy],
            "*",
            color=palette.after,
            markersize=11,
            label=f"after long training ({report.long_term_epochs} epochs)",
        )
    if report.required_accuracy is not None:
        axes.axhline(
            unit * report.required_accuracy,
            color=palette.required,
            linewidth=1.2,
            linestyle=(0, (4, 3)),
            label="required",
        )
    axes.set_ylabel(f"{metric.label}, %" if metric.is_accuracy else metric.label)


def _draw_refused(
    report: types.Report,
    palette: theme.Palette,
    axes: Axes,
    value: Callable[[types.Decision], float | None],
) -> None:
    kinds = (
        (REFUSED_LATENCY, "x", palette.refused_latency),
        (REFUSED_ACCURACY, "v", palette.refused_accuracy),
    )
    for decision, marker, color in kinds:
        values = [(d.number, value(d)) for d in report.decisions if d.decision == decision]
        points = [(x, y) for x, y in values if y is not None]
        if points:
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                marker,
                color=color,
                markersize=6,
                markeredgewidth=1.6,
                label=formats.decision(decision, report.judged_by),
            )


def _spread(latencies: list[types.Latency]) -> list[list[float]]:
    low = [latency.median_ms - latency.q1_ms for latency in latencies]
    high = [latency.q3_ms - latency.median_ms for latency in latencies]
    return [low, high]


def _draw_latencies(report: types.Report, palette: theme.Palette) -> Figure:
    rows = [row for row in report.latencies if row.original and row.pruned]
    figure, axes = _figure(6.4, 3.7)
    for side, color, label in (
        ("original", palette.before, "original"),
        ("pruned", palette.after, "pruned" if report.finished else "so far"),
    ):
        shift = -0.19 if side == "original" else 0.19
        latencies = [(i, getattr(row, side)) for i, row in enumerate(rows) if getattr(row, side)]
        heights = [latency.median_ms for _, latency in latencies]
        bars = axes.bar(
            [i + shift for i, _ in latencies],
            heights,
            0.36,
            color=color,
            yerr=_spread([latency for _, latency in latencies]),
            error_kw={"ecolor": palette.muted, "elinewidth": 1.2, "capsize": 3},
            label=label,
        )
        texts = [formats.significant(height) for height in heights]
        axes.bar_label(bars, texts, padding=3, fontsize=8.5, color=palette.text)
    axes.set_xticks(range(len(rows)), [_bar_name(row) for row in rows])
    axes.set_xlim(-0.6, max(len(rows), 3) - 0.4)
    axes.grid(False, axis="x")
    axes.margins(y=0.14)
    axes.set_ylabel(f"latency, {_unit(report)} (median, quartiles)")
    figure.legend(loc="outside upper left", ncols=2, handlelength=1.2)
    return figure


def _bar_name(row: types.LatencyComparison) -> str:
    runtime = formats.runtime(row.runtime, row.processor)
    name = f"{runtime}\n{formats.threads(row.num_threads)}"
    return f"{name}\n{formats.factor(row.speedup)}" if row.speedup is not None else name


def _draw_channels(report: types.Report, palette: theme.Palette) -> Figure:
    layers = shown_layers(report)
    figure, axes = _figure(6.4, 0.95 + 0.27 * len(layers))
    y = range(len(layers))
    before = [layer.before for layer in layers]
    after = [layer.before if layer.after is None else layer.after for layer in layers]
    axes.barh(y, before, 0.66, color=palette.before, label="removed")
    axes.barh(y, after, 0.66, color=palette.after, label="kept")
    for i, layer in enumerate(layers):
        changed = layer.after is not None and layer.after != layer.before
        text = f"{layer.before} → {layer.after}" if changed else f"{layer.before}"
        axes.annotate(
            text,
            (layer.before, i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(y, [theme.short_name(layer.layer) for layer in layers], fontsize=8.5)
    axes.invert_yaxis()
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.margins(x=0.14)
    axes.grid(False, axis="y")
    axes.set_xlabel("channels")
    figure.legend(loc="outside upper left", ncols=2, handlelength=1.2, reverse=True)
    return figure


def shown_layers(report: types.Report) -> list[types.LayerChannels]:
    """Returns the layers of the channel plot.

    If there are too many layers for the plot, it shows those that lost the largest fraction of
    their channels.
    """
    if len(report.layers) <= _MAX_LAYERS:
        return list(report.layers)
    by_loss = sorted(report.layers, key=lambda layer: 1.0 if layer.kept is None else layer.kept)
    names = {layer.layer for layer in by_loss[:_MAX_LAYERS]}
    return [layer for layer in report.layers if layer.layer in names]


# Maps a plot's name to (title, whether a report has data for it, function that draws it).
_PLOTS: dict[str, tuple[str, Callable[[types.Report], bool], Callable[..., Figure]]] = {
    "history": (
        "Latency and {score} over the candidates tried",
        lambda report: bool(report.decisions) and bool(report.iterations),
        _draw_history,
    ),
    "latency": (
        "Latency before and after",
        lambda report: any(row.original and row.pruned for row in report.latencies),
        _draw_latencies,
    ),
    "channels": (
        "Channels of each layer before and after",
        lambda report: any(layer.after is not None for layer in report.layers),
        _draw_channels,
    ),
    "patterns": (
        "Patterns of kernels",
        lambda report: report.patterns is not None,
        pattern_figures.draw_patterns,
    ),
    "residuals": (
        "Weights on their way to the patterns",
        lambda report: report.patterns is not None and bool(report.patterns.epochs),
        pattern_figures.draw_residuals,
    ),
}
