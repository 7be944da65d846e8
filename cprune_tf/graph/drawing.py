"""Draws the coupled graph: layers as boxes, coloured by channel group, in Graphviz's language."""

from __future__ import annotations

import colorsys
import pathlib
import shutil
import subprocess

from cprune_tf.graph.channel_graph import ChannelGraph, ChannelGroup
from cprune_tf.graph.errors import GraphError

_TIMEOUT_SEC = 120.0


def to_dot(graph: ChannelGraph) -> str:
    """The graph as DOT text.

    Args:
        graph: The analysed model.

    Returns:
        One node per call; the fill colour tells the group of its output channels (grey: protected,
        white: none or several), a thick border who makes them and how many; edges carry tensor
        shapes. Reasons and several groups' names are tooltips in an SVG.
    """
    flat = graph.propagation.flat
    lines = [
        "digraph model {",
        '  node [shape=box, style=filled, fillcolor=white, fontname="Helvetica"];',
        '  edge [fontname="Helvetica"];',
    ]
    owner: dict[int, str] = {}
    for layer, tensor in zip(flat.input_layers, flat.inputs, strict=True):
        owner[id(tensor)] = f"input_{layer.name}"
        lines.append(f'  "input_{_text(layer.name)}" [label="{_text(layer.name)}", shape=ellipse];')
    styles = _styles(graph)
    for position, call in enumerate(flat.calls):
        node = f"{position}_{call.name}"
        text, style = styles.get(call.name, ("", 'tooltip="no channels to prune"'))
        label = f"{_text(call.name)}\\n{type(call.operation).__name__}{text}"
        lines.append(f'  "{_text(node)}" [label="{label}", {style}];')
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
        GraphError: For another suffix, a file that cannot be written, or a picture without
            Graphviz's `dot` on the PATH.
    """
    path = pathlib.Path(path)
    dot = to_dot(graph)
    if path.suffix == ".dot":
        try:
            path.write_text(dot, encoding="utf-8")
        except OSError as error:
            raise GraphError(
                f"Cannot draw to '{path}': {error.strerror}; check the path and its permissions."
            ) from error
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


def _styles(graph: ChannelGraph) -> dict[str, tuple[str, str]]:
    """Third line of the label and Graphviz attributes, by layer whose outputs carry channels."""
    groups_of_layer: dict[str, dict[int, None]] = {}
    for number, group in enumerate(graph.groups):
        for member in group.members:
            if member.what in ("filters", "channels"):
                groups_of_layer.setdefault(member.layer, {})[number] = None
    result = {}
    for layer, numbers in groups_of_layer.items():
        if len(numbers) > 1:
            names = ", ".join(graph.groups[number].name for number in numbers)
            result[layer] = (f"\\n{len(numbers)} groups", f'tooltip="{_text(names)}"')
            continue
        number = next(iter(numbers))
        group = graph.groups[number]
        style = f'fillcolor="{_color(number, group)}"'
        text = f"\\ngroup {_text(group.name)}"
        if layer in group.producers:  # a thick border for who makes the channels
            style += ", penwidth=2.5"
            text += f", {group.num_channels}"
            inner = (g for g in graph.groups if g.name.startswith(f"{layer}/"))
            text += "".join(f"\\n{_text(g.name)}, {g.num_channels}" for g in inner)
        if group.protected:
            text += "\\nprotected"
            style += f', tooltip="{_text(group.protected)}"'
        result[layer] = (text, style)
    return result


def _color(number: int, group: ChannelGroup) -> str:
    """Grey where protected; else the golden angle keeps neighbours apart, however many."""
    if group.protected:
        return "#d0d0d0"
    red, green, blue = colorsys.hls_to_rgb(number * 0.618 % 1.0, 0.82, 0.7)
    return f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"


def _text(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')
