"""Renders int8 files and the errors of their layers for the terminal."""

from __future__ import annotations

import math
import typing
from collections.abc import Sequence

import rich.box
import rich.table
import rich.text

if typing.TYPE_CHECKING:
    from cprune_tf.litert import LayerError


def layer_error_table(errors: Sequence[LayerError], limit: int) -> rich.table.Table:
    """Renders the layers that add most to the error of an int8 file.

    Args:
        errors: From `litert.compare_layers`.
        limit: Maximum number of rows.

    Returns:
        The table, the worst layer first.
    """
    table = rich.table.Table(box=rich.box.SIMPLE)
    table.add_column("layers", overflow="fold")
    table.add_column("operator", no_wrap=True)
    for column in ("added noise", "output dB", "input dB", "storage dB", "weights dB"):
        table.add_column(column, justify="right")
    table.add_column("most of the error", overflow="fold")
    for error in errors[:limit]:
        table.add_row(
            rich.text.Text(", ".join(error.layers) or "unknown"),
            error.code,
            f"{error.introduced:.2%}",
            *map(
                _decibels,
                (error.signal_to_noise_db, error.input_db, error.storage_db, error.weight_db),
            ),
            error.reason,
        )
    return table


def _decibels(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "—"
