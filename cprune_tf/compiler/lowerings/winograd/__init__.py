"""The lowering that computes 3x3 convolutions with Winograd's algorithm."""

from cprune_tf.compiler.lowerings.winograd.lowering import Winograd

__all__ = ["Winograd"]
