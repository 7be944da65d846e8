"""Keras graph -> channel groups -> masked or rebuilt smaller model."""

from cprune_tf.graph.channel_graph import ChannelGraph, ChannelGroup, Removal, analyze
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.masking import mask
from cprune_tf.graph.rebuild import functional_twin, inline, rebuild
from cprune_tf.graph.rules import Effect, Keep, LayerCall, Rule, Weight, register_rule

__all__ = [
    "ChannelGraph",
    "ChannelGroup",
    "Effect",
    "GraphError",
    "Keep",
    "LayerCall",
    "Removal",
    "Rule",
    "Weight",
    "analyze",
    "functional_twin",
    "inline",
    "mask",
    "rebuild",
    "register_rule",
]
