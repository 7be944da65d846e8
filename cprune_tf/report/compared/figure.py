"""Draws accuracy, or another score, against speed-up for all strategies."""

from __future__ import annotations

import functools
import typing
from collections.abc import Sequence

from cprune_tf.accuracy import capitalized
from cprune_tf.report import figures, theme
from cprune_tf.report.compared import types

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "front"
_TITLE = "{score} against speed"
_MARKERS = "osD^vPX"
_ORIGINAL, _FRONT, _REQUIRED = _OTHERS = ("original", "not dominated", "required")

# (speed-up, accuracy in 0..1, or another score)
Position = tuple[float, float]


def plots(comparison: types.Comparison) -> tuple[figures.Plot, ...]:
    """Draws the plot for the page, also for a narrow window.

    Args:
        comparison: The comparison.

    Returns:
        The plot; none if no result has a speed-up.
    """
    if not _positions(comparison):
        return ()
    title = _TITLE.format(score=capitalized(comparison.judged_by.word))
    wide = figures.inline_svg(functools.partial(_draw, comparison, 11.0, 4), title, NAME)
    narrow = figures.inline_svg(
        functools.partial(_draw, comparison, 5.6, 2), title, f"{NAME}-narrow"
    )
    return (figures.Plot(NAME, title, wide, narrow),)


def png(comparison: types.Comparison) -> bytes | None:
    """Draws the plot as a PNG file; None if no result has a speed-up."""
    if not _positions(comparison):
        return None
    return figures.saved(functools.partial(_draw, comparison, 11.0, 4), theme.LIGHT, "png")


def undominated(positions: Sequence[Position]) -> list[Position]:
    """Returns the positions to which none is preferable in speed and accuracy, by speed."""
    kept: list[Position] = []
    for position in sorted(set(positions), reverse=True):
        if not kept or position[1] > kept[-1][1]:
            kept.append(position)
    return kept[::-1]


def _positions(comparison: types.Comparison) -> dict[str, Position]:
    """The results' positions by strategy."""
    return {
        row.strategy: (row.speedup.median, row.deciding_accuracy)
        for row in comparison.rows
        if row.speedup is not None and row.deciding_accuracy is not None
    }


def _draw(
    comparison: types.Comparison, width: float, legend_columns: int, palette: theme.Palette
) -> Figure:
    import matplotlib.figure

    metric = comparison.judged_by
    unit = figures.unit_of(metric)
    figure = matplotlib.figure.Figure(figsize=(width, 5.0), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(sorted(comparison.rows, key=lambda row: row.strategy)):
        color = palette.series[number % len(palette.series)]
        _draw_row(axes, row, unit, color, _MARKERS[number % len(_MARKERS)], palette)
    _draw_front(axes, comparison, palette)
    if comparison.required_accuracy is not None:
        axes.axhline(
            unit * comparison.required_accuracy,
            color=palette.required,
            linewidth=1.2,
            linestyle=(0, (4, 3)),
            label=_REQUIRED,
        )
    axes.set_xlabel("speed-up over the original")
    percent = ", %" if metric.is_accuracy else ""
    axes.set_ylabel(f"{metric.word} on the {metric.items} that decide{percent}")
    _add_legend(figure, axes, legend_columns)
    return figure


def _draw_front(axes: Axes, comparison: types.Comparison, palette: theme.Palette) -> None:
    """Draws the original, and the line through all that is not dominated."""
    unit = figures.unit_of(comparison.judged_by)
    positions = list(_positions(comparison).values())
    accuracy = comparison.original.deciding_accuracy
    if accuracy is not None:
        positions.append((1.0, accuracy))
        axes.plot([1], [unit * accuracy], "*", color=palette.muted, markersize=12, label=_ORIGINAL)
    front = undominated(positions)
    axes.plot(
        [speed for speed, _ in front],
        [unit * accuracy for _, accuracy in front],
        color=palette.muted,
        linewidth=1.2,
        zorder=1.5,
        label=_FRONT,
    )


def _add_legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    # Matplotlib lists error bars after plain lines, but the strategies should come first.
    labels.sort(key=lambda label: label in _OTHERS)
    figure.legend(
        [by_label[label] for label in labels],
        labels,
        loc="outside upper left",
        ncols=columns,
        handlelength=1.4,
    )


def _draw_row(
    axes: Axes, row: types.Row, unit: float, color: str, marker: str, palette: theme.Palette
) -> None:
    if row.accepted:
        axes.plot(
            [model.speedup for model in row.accepted],
            [unit * model.accuracy for model in row.accepted],
            marker,
            color=color,
            alpha=0.55,
            markersize=4,
        )
    if row.speedup is None or row.deciding_accuracy is None:
        return
    speedup = row.speedup
    axes.errorbar(
        [speedup.median],
        [unit * row.deciding_accuracy],
        xerr=[[speedup.median - speedup.low], [speedup.high - speedup.median]],
        fmt=marker,
        color=color,
        markersize=10,
        markeredgecolor=palette.background,
        capsize=3,
        zorder=3,
        label=row.strategy,
    )
