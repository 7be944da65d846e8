"""Draws the graph in Graphviz's language: layers as boxes, coloured by channel group."""

from __future__ import annotations

import colorsys
import pathlib
import shutil
import subprocess

from cprune_tf.graph.channel_graph import ChannelGraph, ChannelGroup
from cprune_tf.graph.errors import GraphError

_TIMEOUT_SEC = 120.0


def to_dot(graph: ChannelGraph) -> str:
    """Returns the graph as DOT text.

    Args:
        graph: The analysed model.

    Returns:
        The text, with one node per call. The fill colour shows the group of the call's output
        channels (grey if protected, white if there is no group or more than one). Nodes that make
        channels have a thick border and say how many. Edges carry tensor shapes. In an SVG,
        tooltips show reasons and the names of several groups.
    """
    flat = graph.propagation.flat
    lines = [
        "digraph model {",
        '  node [shape=box, style=filled, fillcolor=white, fontname="Helvetica"];',
        '  edge [fontname="Helvetica"];',
    ]
    node_of_tensor: dict[int, str] = {}
    for layer, tensor in zip(flat.input_layers, flat.inputs, strict=True):
        node_of_tensor[id(tensor)] = f"input_{layer.name}"
        lines.append(f'  "input_{_text(layer.name)}" [label="{_text(layer.name)}", shape=ellipse];')
    styles = _styles(graph)
    for position, call in enumerate(flat.calls):
        node = f"{position}_{call.name}"
        text, style = styles.get(call.name, ("", 'tooltip="no channels to prune"'))
        label = f"{_text(call.name)}\\n{type(call.operation).__name__}{text}"
        lines.append(f'  "{_text(node)}" [label="{label}", {style}];')
        for tensor in call.inputs:
            shape = "x".join("?" if size is None else str(size) for size in tensor.shape[1:])
            source = _text(node_of_tensor[id(tensor)])
            lines.append(f'  "{source}" -> "{_text(node)}" [label="{shape}", fontsize=9];')
        for tensor in call.outputs:
            node_of_tensor[id(tensor)] = node
    return "\n".join([*lines, "}", ""])


def draw(graph: ChannelGraph, path: str | pathlib.Path) -> None:
    """Writes the graph as `.dot` or, if Graphviz is installed, as `.svg`, `.png` or `.pdf`.

    Args:
        graph: The analysed model.
        path: The file to write; its suffix decides the format.

    Raises:
        GraphError: The suffix is another one, the file cannot be written, or a picture needs
            Graphviz's `dot`, which is not on the PATH.
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
    result = subprocess.run(
        [program, f"-T{path.suffix[1:]}", "-o", str(path)],
        input=dot.encode(),
        capture_output=True,
        timeout=_TIMEOUT_SEC,
        check=False,
    )
    if result.returncode:
        raise GraphError(f"Graphviz failed on '{path}': {result.stderr.decode().strip()}")


def _styles(graph: ChannelGraph) -> dict[str, tuple[str, str]]:
    """Returns more text for the label and Graphviz attributes, by layer with output channels."""
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
        if layer in group.producers:  # a thick border marks the layers that make the channels
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
    """Returns a group's fill colour: grey if it is protected, else a colour of its number."""
    if group.protected:
        return "#d0d0d0"
    # Steps of the golden angle keep neighbouring numbers apart, however many groups there are.
    red, green, blue = colorsys.hls_to_rgb(number * 0.618 % 1.0, 0.82, 0.7)
    return f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"


def _text(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')
