"""Reads the journal's "cross_check" event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cprune_tf.report import fields, types

LatencyKey = tuple[str, str, int | None]
"""Deployment ("original", "pruned"), runtime, threads."""


def read(event: Mapping[str, Any]) -> types.CrossCheck | None:
    """The checks and problems of an event.

    Args:
        event: The event; empty where the run has not come so far.

    Returns:
        What it says, or None.
    """
    if not event:
        return None
    checks = tuple(
        types.RuntimeCheck(
            deployment=fields.text(record, "deployment") or "(unnamed)",
            runtime=fields.text(record, "runtime") or "(unnamed)",
            accuracy=fields.number(record, "accuracy"),
            max_abs_error=fields.number(record, "max_abs_error"),
            max_relative_error=fields.number(record, "max_relative_error"),
            top1_agreement=fields.number(record, "top1_agreement"),
            file_bytes=fields.integer(record, "file_bytes"),
        )
        for record in fields.mappings(event, "results")
    )
    return types.CrossCheck(
        fields.integer(event, "num_images"), checks, fields.texts(event, "problems")
    )


def latencies(event: Mapping[str, Any]) -> dict[LatencyKey, types.Latency]:
    """The latencies of an event, all timed turn by turn."""
    found: dict[LatencyKey, types.Latency] = {}
    for record in fields.mappings(event, "results"):
        deployment, runtime = fields.text(record, "deployment"), fields.text(record, "runtime")
        for value in fields.mappings(record, "latencies"):
            latency = fields.latency({"latency": value}, "latency")
            if deployment and runtime and latency:
                found[deployment, runtime, latency.num_threads] = latency
    return found
