"""Names of layers that TensorFlow would not take, because it makes names of scopes of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from cprune_tf.graph.rebuilding import functional_twin

# What TensorFlow does not take in all names of scopes and operations, or not at their start.
_NO_CHARACTER = re.compile(r"[^A-Za-z0-9_./-]")
_NO_START = re.compile(r"[^A-Za-z0-9.]")


@contextlib.contextmanager
def any_names() -> Iterator[None]:
    """Lets TensorFlow trace layers, optimizers and metrics of any names, which stay as they are.

    Keras opens a scope of the layer's name wherever it builds or calls a layer. TensorFlow refuses
    spaces, symbols and letters of other alphabets there when it traces a function. Inside of this
    context, the scope gets another name. TensorFlow numbers scopes whose names become equal.
    """
    in_graph, anywhere = tf.Graph.name_scope, tf.name_scope.__init__

    # Variables of optimizers get their scopes from the graph.
    def graph_scope(graph: Any, name: Any) -> Any:
        return in_graph(graph, _scope(name) if isinstance(name, str) else name)

    def scope(self: Any, name: Any) -> None:
        anywhere(self, _scope(name) if isinstance(name, str) else name)

    tf.Graph.name_scope, tf.name_scope.__init__ = graph_scope, scope
    try:
        yield
    finally:
        tf.Graph.name_scope, tf.name_scope.__init__ = in_graph, anywhere


def savable_twin(model: Any) -> Any:
    """Returns a model whose variables TensorFlow can save.

    Args:
        model: A functional or built Sequential model; it is not changed.

    Returns:
        `model` itself, or a copy with the same names if its layers were built with a colon in them.
    """
    names = (weight.value.name for weight in model.weights)
    if not any(":" in name.rpartition(":")[0] for name in names):
        return model
    with any_names():
        return functional_twin(model)


def _scope(name: str) -> str:
    """A name that TensorFlow takes anywhere; "" stands for the outermost scope, and stays."""
    plain = _NO_CHARACTER.sub("_", name)
    return f"x{plain}" if _NO_START.match(plain) else plain
