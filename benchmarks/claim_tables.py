"""Tables of the docs that are made of one result each, by the names that claims.toml gives."""

from __future__ import annotations

from typing import Any


def uninstructed(result: Any) -> str:
    """Returns the layers of uninstructed.json, each with 12 % fewer filters and at its slowest."""
    lines = [
        "| layer (input, channels) | unpruned | 12 % removed | instructed at 12 % "
        "| slowest count |",
        "|---|---|---|---|---|",
    ]
    for row in result["layers"]:
        kernel, _, size, inputs, filters = row["shape"]
        whole_us = row["latency_us"]
        (point,) = [p for p in row["points"] if p["percent"] == 12]
        slowest_us = max(p["latency_us"] for p in row["points"])
        cells = [
            f"{kernel}x{kernel}, {size}x{size}, {inputs} to {filters}",
            f"{whole_us:.0f} µs",
            f"{point['filters']}: {point['latency_us'] / whole_us:.2f}x",
            f"{point['instructed_filters']}: {point['instructed_us'] / whole_us:.2f}x",
            f"{slowest_us / whole_us:.1f}x",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
