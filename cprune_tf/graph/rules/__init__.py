"""Layer rules; importing this package registers all of them."""

from cprune_tf.graph.rules import (
    applications,
    attention,
    augmentation,
    convolutions,
    dense_layers,
    elementwise,
    normalization,
    operations,
    recurrent,
    shapes,
    structural,
    wrappers,
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
    "applications",
    "attention",
    "augmentation",
    "convolutions",
    "dense_layers",
    "elementwise",
    "normalization",
    "operations",
    "recurrent",
    "register_rule",
    "shapes",
    "structural",
    "wrappers",
]
