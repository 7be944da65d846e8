"""Winograd's algorithm for 3x3 convolutions."""

from cprune_tf.compiler.lowerings.winograd.lowering import Winograd

__all__ = ["Winograd"]
