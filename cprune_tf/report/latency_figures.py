"""Draws plots of profiles, staircases and predictions."""

from __future__ import annotations

import math
import pathlib
import typing
from collections.abc import Callable, Sequence

from cprune_tf.report import formats, theme
from cprune_tf.storage import files

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cprune_tf.latency.profile import ModelProfile
    from cprune_tf.latency.staircase import Staircase

_MAX_BARS = 40
_COLUMNS = 3


def write_profile_figure(path: pathlib.Path, profile: ModelProfile, title: str) -> None:
    """Draws a bar for each task: its time, and the part that the device's limits explain.

    Args:
        path: The .png or .svg file to write.
        profile: The model's profile.
        title: The plot's title.
    """
    palette = theme.LIGHT
    rows = profile.tasks[:_MAX_BARS]

    def draw() -> Figure:
        figure, axes = _figure(9, 1.4 + 0.3 * len(rows))
        names = [_task_label(row.task.subgraphs) for row in rows]
        positions = list(range(len(rows)))[::-1]
        totals = [row.task.total_ms * 1e3 for row in rows]
        axes.barh(positions, totals, color=palette.before, label="measured")
        if profile.roofline is not None:
            bounds = [
                row.task.total_ms * min(row.task.roofline_share or 0.0, 1) * 1e3 for row in rows
            ]
            axes.barh(positions, bounds, color=palette.after, label="at the roofline")
        for position, row, total in zip(positions, rows, totals, strict=True):
            axes.annotate(
                f"{row.task.gflops:.0f} GFLOPS" if row.task.flops else "",
                (total, position),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=palette.muted,
            )
        axes.set_yticks(positions, names)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.14, y=0.02)
        axes.set_xlabel("µs per inference, all subgraphs of a task")
        axes.set_title(title)
        axes.legend(loc="lower right")
        return figure

    _write(path, draw)


def write_staircase_figure(path: pathlib.Path, staircases: Sequence[Staircase], title: str) -> None:
    """Draws latency against channel count, a panel for each group.

    Args:
        path: The .png or .svg file to write.
        staircases: The staircases; at least one.
        title: The plot's title.
    """

    def draw() -> Figure:
        import matplotlib.figure

        columns = min(_COLUMNS, len(staircases))
        rows = math.ceil(len(staircases) / columns)
        figure = matplotlib.figure.Figure(
            figsize=(max(3.6 * columns, 5.5), 2.9 * rows + 0.7), layout="constrained"
        )
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, staircase in zip(panels, staircases, strict=False):
            _draw_staircase(axes, staircase)
        for axes in panels[len(staircases) :]:
            axes.set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.02, ha="left")
        return figure

    _write(path, draw)


def write_prediction_figure(
    path: pathlib.Path,
    series: Sequence[tuple[str, Sequence[tuple[float, float, float]]]],
) -> None:
    """Draws predicted against measured latencies, a panel for each model.

    Args:
        path: The .png or .svg file to write.
        series: (model name, [(measured ms, predicted ms, uncertainty ms), ...]) for each panel.
    """
    palette = theme.LIGHT

    def draw() -> Figure:
        import matplotlib.figure

        figure = matplotlib.figure.Figure(figsize=(4.6 * len(series), 4.4), layout="constrained")
        panels = figure.subplots(1, len(series), squeeze=False).flat
        for axes, (name, points) in zip(panels, series, strict=True):
            measured, predicted, deviation = (list(column) for column in zip(*points, strict=True))
            ends = [0.95 * min(measured + predicted), 1.05 * max(measured + predicted)]
            axes.fill_between(
                ends,
                [0.95 * end for end in ends],
                [1.05 * end for end in ends],
                color=palette.grid,
                label="±5 %",
            )
            axes.errorbar(
                measured,
                predicted,
                yerr=deviation,
                fmt="o",
                color=palette.after,
                ecolor=palette.before,
                markersize=4,
                label="one assignment, 1 σ",
            )
            axes.set_xlabel("measured, ms")
            axes.set_ylabel("predicted, ms")
            axes.set_title(name)
            axes.legend(loc="upper left")
        return figure

    _write(path, draw)


def _draw_staircase(axes: Axes, staircase: Staircase) -> None:
    palette = theme.LIGHT
    counts = [stair.count for stair in staircase.stairs]
    axes.errorbar(
        counts,
        [stair.latency_ms * 1e3 for stair in staircase.stairs],
        yerr=[stair.spread_ms * 1e3 / 2 for stair in staircase.stairs],
        fmt="o",
        markersize=3.5,
        color=palette.before,
        label="measured",
    )
    axes.step(
        counts,
        [staircase.latency_ms(count) * 1e3 for count in counts],
        where="pre",
        color=palette.after,
        linewidth=1.5,
        label="best at this count or more",
    )
    edges = staircase.steps()
    axes.plot(
        edges,
        [staircase.latency_ms(count) * 1e3 for count in edges],
        "o",
        markersize=5.5,
        color=palette.accepted,
        label="worth pruning to",
    )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("channels kept")
    axes.set_ylabel("µs")
    axes.set_title(f"{theme.short_name(staircase.group)} ({staircase.num_channels})", fontsize=9.5)


def _task_label(subgraphs: Sequence[Sequence[str]]) -> str:
    first = subgraphs[0][0] if subgraphs and subgraphs[0] else formats.MISSING
    return theme.short_name(first) + (f" (x{len(subgraphs)})" if len(subgraphs) > 1 else "")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _write(path: pathlib.Path, draw: Callable[[], Figure]) -> None:
    with theme.drawing(theme.LIGHT), files.replacing(path) as temporary:
        draw().savefig(temporary, dpi=130)
