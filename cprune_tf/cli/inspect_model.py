"""Shows what can be pruned in a model: its channel groups, why some are protected, and sizes.

python tools/inspect_model.py --model=model.keras
python tools/inspect_model.py --model=resnet8_fashion --protect='head*' --members --draw=graph.svg
"""

from __future__ import annotations

import typing
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table
import rich.text
from absl import flags

from cprune_tf.cli import command_line, loading

if typing.TYPE_CHECKING:
    from cprune_tf.graph import ChannelGraph, LayerStatistics, ModelStatistics

flags.adopt_module_key_flags(loading)
_MODEL = flags.DEFINE_string(
    "model", None, "An embedded model's name, a .keras or .h5 file, or a keras.applications name."
)
_PROTECT = flags.DEFINE_list(
    "protect", [], "Patterns of layer names or paths whose channels stay, e.g. 'head*,backbone/*'."
)
_MEMBERS = flags.DEFINE_bool(
    "members", False, "Print the layers that make and that follow each group."
)
_LAYERS = flags.DEFINE_bool("layers", True, "Print the table of layers.")
_DRAW = flags.DEFINE_string("draw", None, "Write the coupled graph here: .dot, .svg, .png or .pdf.")


def run() -> None:
    """The entry point of `cprune-inspect`."""
    flags.mark_flags_as_required(["model"])
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Prints what the flags ask for."""
    del argv
    # The import takes seconds, so the command line was checked first.
    command_line.import_tensorflow_quietly()
    from cprune_tf import graph as graphs
    from cprune_tf.graph import drawing

    model = loading.load(_MODEL.value)
    graph = graphs.analyze(model, _PROTECT.value)
    console = command_line.make_console()
    if _LAYERS.value:
        console.print(layer_table(graphs.statistics(model)))
    console.print(group_table(graph))
    if _MEMBERS.value:
        print(f"\n{graph}")
    else:
        print("--members shows the layers of each group, --draw=graph.svg the whole graph")
    if _DRAW.value:
        drawing.draw(graph, _DRAW.value)
        print(f"\nThe coupled graph is in {_DRAW.value}")


def layer_table(statistics: ModelStatistics) -> rich.table.Table:
    """Makes a table of a model's layers with their sizes.

    Args:
        statistics: The model's counts.

    Returns:
        The table, with one line per layer and the totals.
    """
    table = _table(
        ("layer", "kind", "output"), ("params", "MACs", "activation B", "weight B"), footer=True
    )
    for layer in statistics.layers:
        table.add_row(
            rich.text.Text(layer.name),
            layer.kind,
            "x".join("?" if size is None else str(size) for size in layer.output_shape[1:]),
            *_counts(layer),
        )
    for column, text in zip(table.columns, ("total", "", "", *_counts(statistics)), strict=True):
        column.footer = text
    return table


def group_table(graph: ChannelGraph) -> rich.console.Group:
    """Makes a table of the channel groups.

    Args:
        graph: The analysed model.

    Returns:
        The table, with one line per group, and a summary.
    """
    from cprune_tf.graph import group_statistics

    table = _table(("group",), ("units", "layers", "params", "MACs"))
    table.add_column("state", overflow="fold")
    for group, counted in zip(graph.groups, group_statistics(graph), strict=True):
        table.add_row(
            rich.text.Text(group.name),
            str(group.num_channels),
            str(len(group.producers) + len(group.followers)),
            f"{counted.params:,}",
            _count(counted.macs),
            rich.text.Text(f"protected: {group.protected}" if group.protected else "prunable"),
        )
    num_prunable_units = sum(group.num_channels for group in graph.prunable)
    num_units = sum(group.num_channels for group in graph.groups)
    summary = (
        f"{len(graph.prunable)} of {len(graph.groups)} groups prunable: {num_prunable_units:,} of "
        f"{num_units:,} units (a kernel between two groups counts in both)"
    )
    return rich.console.Group(table, summary)


def _table(texts: Sequence[str], numbers: Sequence[str], footer: bool = False) -> rich.table.Table:
    """Makes an empty table with columns of text, then columns of numbers that are never cut."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_footer=footer)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _counts(counted: LayerStatistics | ModelStatistics) -> tuple[str, str, str, str]:
    """Formats the four counts of a layer or model."""
    return (
        f"{counted.params:,}",
        _count(counted.macs),
        _count(counted.activation_bytes),
        f"{counted.weight_bytes:,}",
    )


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


if __name__ == "__main__":
    run()
