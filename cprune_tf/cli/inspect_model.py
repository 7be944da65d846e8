"""Shows what can be pruned in a model: channel groups, protected ones with reasons, sizes.

python tools/inspect_model.py --model=model.keras
python tools/inspect_model.py --model=resnet8_fashion --protect='head*' --members --draw=graph.svg
"""

from __future__ import annotations

import typing
from collections.abc import Sequence

from absl import flags

from cprune_tf.cli import command_line, loading

if typing.TYPE_CHECKING:
    from cprune_tf.graph import ChannelGraph

_MODEL = flags.DEFINE_string(
    "model", None, "An embedded model's name, a .keras or .h5 file, or a keras.applications name."
)
_PROTECT = flags.DEFINE_list(
    "protect", [], "Patterns of layer names or paths whose channels stay, e.g. 'head*,backbone/*'."
)
_MEMBERS = flags.DEFINE_bool("members", False, "Print who triggers and who follows in each group.")
_LAYERS = flags.DEFINE_bool("layers", True, "Print the table of layers.")
_DRAW = flags.DEFINE_string("draw", None, "Write the coupled graph here: .dot, .svg, .png or .pdf.")


def run() -> None:
    """The entry point of `cprune-inspect`."""
    flags.mark_flags_as_required(["model"])
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Prints what the flags ask for."""
    del argv
    # TensorFlow takes seconds to import: not before the command line is known to be right.
    command_line.import_tensorflow_quietly()
    from cprune_tf import graph as graphs
    from cprune_tf.graph import drawing

    model = loading.load(_MODEL.value)
    graph = graphs.analyze(model, _PROTECT.value)
    if _LAYERS.value:
        print(graphs.statistics(model), end="\n\n")
    print(group_table(graph))
    if _MEMBERS.value:
        print(f"\n{graph}")
    else:
        print("--members shows the layers of each group, --draw=graph.svg the whole graph")
    if _DRAW.value:
        drawing.draw(graph, _DRAW.value)
        print(f"\nThe coupled graph is in {_DRAW.value}")


def group_table(graph: ChannelGraph) -> str:
    """The channel groups as a table.

    Args:
        graph: The analysed model.

    Returns:
        One line per group, and a summary.
    """
    from cprune_tf.graph import group_statistics

    rows = [("group", "units", "layers", "params", "MACs", "state")]
    share = [0, 0]
    for group, counted in zip(graph.groups, group_statistics(graph), strict=True):
        layers = len(group.producers) + len(group.followers)
        macs = "unknown" if counted.macs is None else f"{counted.macs:,}"
        state = f"protected: {group.protected}" if group.protected else "prunable"
        rows.append(
            (group.name, str(group.num_channels), str(layers), f"{counted.params:,}", macs, state)
        )
        share[group.protected is not None] += group.num_channels
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, 5)), row[5]]
        )
        for row in rows
    ]
    prunable = len(graph.prunable)
    lines.append(
        f"{prunable} of {len(graph.groups)} groups prunable: {share[0]:,} of {sum(share):,} units "
        "(a kernel between two groups counts in both)"
    )
    return "\n".join(lines)
