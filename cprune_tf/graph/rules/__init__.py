"""Layer rules; importing this package registers all of them."""

from cprune_tf.graph.rules import (
    convolution,
    dense,
    elementwise,
    normalization,
    operations,
    shapes,
)
from cprune_tf.graph.rules.registry import (
    REGISTRY,
    Effect,
    Keep,
    LayerCall,
    Rule,
    Weight,
    register_rule,
)

__all__ = [
    "REGISTRY",
    "Effect",
    "Keep",
    "LayerCall",
    "Rule",
    "Weight",
    "convolution",
    "dense",
    "elementwise",
    "normalization",
    "operations",
    "register_rule",
    "shapes",
]
