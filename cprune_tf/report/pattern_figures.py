"""Draws patterns, and how a training came to them."""

from __future__ import annotations

import itertools
import typing

from cprune_tf.report import formats, theme, types
from cprune_tf.runs.results import DrawnPattern

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PER_ROW = 8
# Between patterns, in entries.
_GAP = 1.0


def draw_patterns(report: types.Report, palette: theme.Palette) -> Figure:
    """Draws each pattern, and how many of the kernels that stay have it."""
    import matplotlib.figure

    assert report.patterns is not None
    figure = matplotlib.figure.Figure(figsize=(6.4, 0), layout="constrained")
    axes = figure.subplots()
    bottom, right = 0.0, 0.0
    by_size = itertools.groupby(report.patterns.drawn, lambda one: (one.height, one.width))
    for (height, width), group in by_size:
        patterns = list(group)
        for first in range(0, len(patterns), _PER_ROW):
            for column, pattern in enumerate(patterns[first : first + _PER_ROW]):
                left = column * (width + _GAP)
                _draw_pattern(axes, palette, pattern, left, bottom)
                right = max(right, left + width)
            bottom += height + 3 * _GAP
    axes.set_xlim(-0.1, right + 0.1)
    axes.set_ylim(bottom, -0.2)
    axes.set_aspect("equal")
    axes.axis("off")
    figure.set_figheight(max(1.0, 6.2 * bottom / max(right, 1.0)))
    return figure


def _draw_pattern(
    axes: Axes, palette: theme.Palette, pattern: DrawnPattern, left: float, top: float
) -> None:
    from matplotlib.patches import Rectangle

    for entry in range(pattern.height * pattern.width):
        row, column = divmod(entry, pattern.width)
        color = palette.after if entry in pattern.entries else palette.grid
        corner = left + column + 0.05, top + row + 0.05
        axes.add_patch(Rectangle(corner, 0.9, 0.9, color=color, linewidth=0))
    below = top + pattern.height + 0.2
    share = formats.share(pattern.used_share) + "\n" + formats.share(pattern.natural_share)
    axes.text(left + pattern.width / 2, below, share, ha="center", va="top", fontsize=8.5)


def draw_residuals(report: types.Report, palette: theme.Palette) -> Figure:
    """Draws how far weights were from their projections after each epoch."""
    import matplotlib.figure
    from matplotlib.ticker import MaxNLocator

    assert report.patterns is not None
    epochs = report.patterns.epochs
    figure = matplotlib.figure.Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    lines = (
        ("patterns", [one.patterns for one in epochs], palette.series_1),
        ("connectivity", [one.connectivity for one in epochs], palette.series_2),
    )
    for label, values, color in lines:
        points = [
            (epoch, 100 * value) for epoch, value in enumerate(values, 1) if value is not None
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, "o-", color=color, markersize=3.5, linewidth=1.4, label=label)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("distance from the projection,\n% of the weights' norm")
    figure.legend(loc="outside upper left", ncols=2, handlelength=1.6)
    return figure
