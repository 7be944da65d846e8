"""Draws the coupled graph: layers as boxes, coloured by channel group, in Graphviz's language."""

from __future__ import annotations

import colorsys
import pathlib
import shutil
import subprocess

from cprune_tf.graph.channel_graph import ChannelGraph
from cprune_tf.graph.errors import GraphError

_TIMEOUT_SEC = 120.0


def to_dot(graph: ChannelGraph) -> str:
    """The graph as DOT text.

    Args:
        graph: The analysed model.

    Returns:
        One node per call; the fill colour tells the group of its output channels (grey: protected,
        white: none or several), edges carry tensor shapes.
    """
    flat = graph.propagation.flat
    lines = ["digraph model {", '  node [shape=box, style=filled, fontname="Helvetica"];']
    owner: dict[int, str] = {}
    for layer, tensor in zip(flat.input_layers, flat.inputs, strict=True):
        owner[id(tensor)] = f"input_{layer.name}"
        lines.append(f'  "input_{_text(layer.name)}" [label="{_text(layer.name)}", shape=ellipse];')
    colors = _colors(graph)
    for position, call in enumerate(flat.calls):
        node = f"{position}_{call.name}"
        kind = type(call.operation).__name__
        color, group = colors.get(call.name, ("#ffffff", ""))
        label = f"{_text(call.name)}\\n{kind}" + (f"\\ngroup {_text(group)}" if group else "")
        lines.append(f'  "{_text(node)}" [label="{label}", fillcolor="{color}"];')
        for tensor in call.inputs:
            shape = "x".join("?" if size is None else str(size) for size in tensor.shape[1:])
            lines.append(
                f'  "{_text(owner[id(tensor)])}" -> "{_text(node)}" [label="{shape}", fontsize=9];'
            )
        for tensor in call.outputs:
            owner[id(tensor)] = node
    return "\n".join([*lines, "}", ""])


def draw(graph: ChannelGraph, path: str | pathlib.Path) -> None:
    """Writes the graph as `.dot` or, where Graphviz is installed, as `.svg`, `.png` or `.pdf`.

    Args:
        graph: The analysed model.
        path: Its suffix decides the format.

    Raises:
        GraphError: For another suffix, or a picture without Graphviz's `dot` on the PATH.
    """
    path = pathlib.Path(path)
    dot = to_dot(graph)
    if path.suffix == ".dot":
        path.write_text(dot, encoding="utf-8")
        return
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise GraphError(
            f"Cannot draw to '{path}'; expected a name ending in .dot, .svg, .png, .pdf."
        )
    program = shutil.which("dot")
    if program is None:
        raise GraphError(
            f"Drawing '{path.name}' needs Graphviz's 'dot', which is not on the PATH; install "
            f"graphviz, or write '{path.with_suffix('.dot').name}' instead."
        )
    done = subprocess.run(
        [program, f"-T{path.suffix[1:]}", "-o", str(path)],
        input=dot.encode(),
        capture_output=True,
        timeout=_TIMEOUT_SEC,
        check=False,
    )
    if done.returncode:
        raise GraphError(f"Graphviz failed on '{path}': {done.stderr.decode().strip()}")


def _colors(graph: ChannelGraph) -> dict[str, tuple[str, str]]:
    """Fill colour and group name by layer, for layers whose outputs belong to one group."""
    groups: dict[str, set[int]] = {}
    for number, group in enumerate(graph.groups):
        for member in group.members:
            if member.what != "inputs":
                groups.setdefault(member.layer, set()).add(number)
    result = {}
    for layer, numbers in groups.items():
        if len(numbers) == 1:
            number = next(iter(numbers))
            group = graph.groups[number]
            # The golden angle keeps neighbours apart, however many groups there are.
            red, green, blue = colorsys.hls_to_rgb(number * 0.618 % 1.0, 0.82, 0.7)
            color = f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"
            result[layer] = ("#d0d0d0" if group.protected else color, group.name)
    return result


def _text(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')
