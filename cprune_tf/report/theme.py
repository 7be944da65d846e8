"""Colours and type of the plots, for a light page, a dark one and PNG files.

A plot inside the page is drawn once, in placeholder colours that become CSS variables: the page
decides what they are.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours by role, as "#rrggbb"."""

    text: str
    muted: str
    grid: str
    background: str
    before: str
    after: str
    accepted: str
    refused_latency: str
    refused_accuracy: str
    required: str


LIGHT = Palette(
    text="#1c2430",
    muted="#5b6675",
    grid="#dfe4ea",
    background="#ffffff",
    before="#a9b4c2",
    after="#0b6fb8",
    accepted="#14803c",
    refused_latency="#b4540a",
    refused_accuracy="#b3266f",
    required="#5b6675",
)

_NAMES = tuple(field.name for field in dataclasses.fields(Palette))

# Nearly black, so that a colour that were forgotten below would still be legible on paper.
PLACEHOLDER = Palette(**{name: f"#0000{i + 1:02x}" for i, name in enumerate(_NAMES)})


def settings(palette: Palette) -> dict[str, Any]:
    """Matplotlib's settings for one plot, to be used in `rc_context`."""
    return {
        "axes.edgecolor": palette.grid,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.labelcolor": palette.muted,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlepad": 10,
        "axes.labelsize": 9.5,
        "figure.facecolor": palette.background if palette is LIGHT else "none",
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "grid.color": palette.grid,
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": "cprune_tf",
        "text.color": palette.text,
        "xtick.color": palette.grid,
        "xtick.labelcolor": palette.muted,
        "ytick.color": palette.grid,
        "ytick.labelcolor": palette.muted,
    }


def themed_svg(svg: str, title: str, prefix: str) -> str:
    """Makes a saved SVG fit to stand inside the page.

    Args:
        svg: What matplotlib wrote, drawn in PLACEHOLDER.
        title: What it shows, for those who cannot see it.
        prefix: Distinguishes its ids from other plots' on the page.

    Returns:
        An `<svg>` element without references to the outside.
    """
    body = svg[svg.index("<svg") :]
    _, _, content = body.partition(">")
    content = re.sub(r"<metadata>.*?</metadata>", "", content, flags=re.DOTALL)
    view_box = re.search(r'viewBox="([^"]+)"', body)
    if view_box is None:
        raise ValueError("The plot's SVG has no viewBox; expected matplotlib's SVG backend.")
    for name in _NAMES:
        content = content.replace(
            getattr(PLACEHOLDER, name), f"var(--plot-{name.replace('_', '-')})"
        )
    content = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", content)
    content = re.sub(r'\bid="', f'id="{prefix}-', content)
    content = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", content)
    return (
        f'<svg viewBox="{view_box.group(1)}" role="img" aria-label="{title}" '
        f'class="plot {prefix}">{content.strip()}'
    )
