"""Sets the plots' colours and fonts, for a light page, a dark page and PNG files.

A plot inside the page is drawn once, in placeholder colours that are then replaced by CSS
variables. The page's style sheet sets these variables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import html
import re
import warnings
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Palette:
    """The plots' colours by role, as "#rrggbb"; those of series have no meaning of their own."""

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
    series_1: str
    series_2: str
    series_3: str
    series_4: str
    series_5: str
    series_6: str

    @property
    def series(self) -> tuple[str, ...]:
        """The colours of series, in the order of their use."""
        return tuple(getattr(self, name) for name in _NAMES if name.startswith("series_"))


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
    series_1="#0b6fb8",
    series_2="#b4540a",
    series_3="#14803c",
    series_4="#b3266f",
    series_5="#6b46c1",
    series_6="#7a5c00",
)

_LONGEST_NAME = 48
_NAMES = tuple(field.name for field in dataclasses.fields(Palette))

# These colours are nearly black, so that a colour that is not replaced would still be legible.
PLACEHOLDER = Palette(**{name: f"#0000{i + 1:02x}" for i, name in enumerate(_NAMES)})


@contextlib.contextmanager
def drawing(palette: Palette) -> Iterator[None]:
    """Sets matplotlib's settings for one plot.

    Args:
        palette: The plot's colours.
    """
    import matplotlib

    with matplotlib.rc_context(_settings(palette)), warnings.catch_warnings():
        # Names of layers may be in any alphabet; a page shows them in the reader's own fonts.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        yield


def short_name(name: str) -> str:
    """Returns a layer's name as plots show it: its middle is left out if it is very long."""
    if len(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _settings(palette: Palette) -> dict[str, Any]:
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
        # A dollar in the name of a layer is no formula.
        "text.parse_math": False,
        "xtick.color": palette.grid,
        "xtick.labelcolor": palette.muted,
        "ytick.color": palette.grid,
        "ytick.labelcolor": palette.muted,
    }


def themed_svg(svg: str, title: str, prefix: str) -> str:
    """Converts a saved SVG to an element that can be inlined in the page.

    Args:
        svg: The SVG that matplotlib wrote, drawn in the palette PLACEHOLDER.
        title: The plot's title, for screen readers.
        prefix: A prefix that distinguishes the plot's ids from those of other plots on the page.

    Returns:
        An `<svg>` element without external references.

    Raises:
        ValueError: If the SVG has no viewBox.
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
        f'<svg viewBox="{view_box.group(1)}" role="img" aria-label="{html.escape(title)}" '
        f'class="plot {prefix}">{content.strip()}'
    )
