"""Renders profiles, comparisons of layers and staircases as tables for the terminal."""

from __future__ import annotations

import typing
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table
import rich.text

from cprune_tf.report import formats

if typing.TYPE_CHECKING:
    from cprune_tf.compiler.profiling import TaskProfile
    from cprune_tf.latency.profile import ModelProfile
    from cprune_tf.latency.side_by_side import SideBySide
    from cprune_tf.latency.staircase import Staircase

_MAX_LAYERS = 3


def profile_table(profile: ModelProfile) -> rich.console.Group:
    """Renders every task, the costliest first, and the whole model's overhead."""
    table = _table("task", "layers", "groups")
    table.add_column("good counts", overflow="fold")
    peak = profile.roofline
    limits = () if peak is None else ("roofline", "bound", "lowering")
    for column in ("weight", "MFLOP", "kB", "latency", "share", "GFLOPS", *limits):
        table.add_column(column, justify="right", no_wrap=True)
    for row in profile.tasks:
        task = row.task
        table.add_row(
            task.name,
            rich.text.Text(_layers([layers[0] for layers in task.subgraphs if layers])),
            rich.text.Text(_layers(row.groups)),
            formats.counts(task.keeping_counts, task.filters),
            str(task.weight),
            formats.significant(task.flops / 1e6),
            formats.significant(task.bytes_moved / 1e3),
            formats.milliseconds(task.latency_ms),
            formats.share(task.share),
            formats.significant(task.gflops),
            *_limits(task),
        )
    whole = (
        f"whole model {formats.milliseconds(profile.whole_ms)}, sum of tasks "
        f"{formats.milliseconds(profile.tasks_ms)}: runtime overhead "
        f"{formats.milliseconds(profile.overhead_ms)} "
        f"({100 * profile.overhead_fraction:.1f} % of the whole), "
        f"{formats.threads(profile.num_threads)}"
    )
    notes = (
        "good counts: numbers of filters that leave no vector of the runtime's kernels partly empty"
    )
    if peak is not None:
        streams = ", ".join(
            f"{bandwidth.gb_per_sec:.0f} GB/s over "
            f"{formats.file_bytes(bandwidth.working_set_bytes)}"
            for bandwidth in peak.bandwidths
        )
        notes = (
            f"measured limits: {peak.peak_gflops:.0f} GFLOPS; {streams}\n"
            "good counts: filters at which a program that is about as fast as the fastest keeps "
            "its inner tiles"
        )
    return rich.console.Group(table, rich.text.Text(whole, "bold"), rich.text.Text(notes, "dim"))


def _limits(task: TaskProfile) -> tuple[str, ...]:
    """Formats how a task compares with the device's limits; nothing without a roofline."""
    if task.roofline_share is None or task.bound is None:
        return ()
    return formats.share(task.roofline_share), task.bound, task.lowering


def side_by_side_table(compared: SideBySide) -> rich.console.Group:
    """Renders TVM's and LiteRT's time for each set of layers, and both whole models' latencies."""
    table = _table("layers", "LiteRT runs")
    for column in ("TVM", "LiteRT", "TVM / LiteRT"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in compared.rows:
        table.add_row(
            rich.text.Text(", ".join(row.layers) or "(layers unknown)"),
            ", ".join(dict.fromkeys(row.litert)),
            "-" if row.tvm_ms is None else formats.milliseconds(row.tvm_ms),
            "-" if row.litert_ms is None else formats.milliseconds(row.litert_ms),
            "" if row.ratio is None else f"{row.ratio:.2f}",
        )
    lines = [
        f"{name}: whole model {formats.milliseconds(whole)}, sum of the above "
        f"{formats.milliseconds(total)}, {formats.threads(compared.num_threads)}"
        for name, whole, total in (
            ("TVM", compared.tvm_whole_ms, compared.tvm_sum_ms),
            ("LiteRT", compared.litert_whole_ms, compared.litert_sum_ms),
        )
    ]
    note = (
        "TVM's subgraphs are timed alone with warm caches. LiteRT's operators are timed in the "
        "running model; each run is rounded down to whole microseconds."
    )
    whole = rich.text.Text("\n".join(lines), "bold")
    return rich.console.Group(table, whole, rich.text.Text(note, "dim"))


def staircase_table(staircases: Sequence[Staircase]) -> rich.table.Table:
    """Renders the counts worth pruning to, with their latencies, for each group."""
    table = _table("group", "worth pruning to (latency that the count affects)")
    for column in ("units", "points", "rest of the model"):
        table.add_column(column, justify="right", no_wrap=True)
    for staircase in staircases:
        steps = [
            f"{count}: {formats.milliseconds(staircase.latency_ms(count))}"
            for count in staircase.steps()
        ]
        table.add_row(
            rich.text.Text(staircase.group),
            ", ".join(steps),
            str(staircase.num_channels),
            str(len(staircase.stairs)),
            formats.milliseconds(staircase.rest_ms),
        )
    return table


def _table(*columns: str) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _layers(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MAX_LAYERS])
    rest = len(names) - _MAX_LAYERS
    return shown + (f" and {rest} more" if rest > 0 else "")
