"""Keras graph -> channel groups -> masked or rebuilt smaller model."""

from cprune_tf.graph.channel_graph import ChannelGraph, ChannelGroup, Removal, analyze
from cprune_tf.graph.counting import (
    GroupStatistics,
    LayerStatistics,
    ModelStatistics,
    group_statistics,
    statistics,
)
from cprune_tf.graph.errors import GraphError
from cprune_tf.graph.fixing import fix_inputs, fixing_remark, unknown_sizes
from cprune_tf.graph.flat import inputs_and_outputs
from cprune_tf.graph.folding import Folding, plan_folding
from cprune_tf.graph.history import PruningHistory, PruningStep
from cprune_tf.graph.masking import mask
from cprune_tf.graph.naming import any_names, savable_twin
from cprune_tf.graph.rebuilding import functional_twin, rebuild
from cprune_tf.graph.rules import Effect, Keep, LayerCall, Rule, Weight, register_rule
from cprune_tf.graph.sparsity import SparsityBudget, plan_removal
from cprune_tf.graph.storing import check_storable, load_stored, stored_form
from cprune_tf.graph.subnormals import count_subnormals, flush_subnormals

__all__ = [
    "ChannelGraph",
    "ChannelGroup",
    "Effect",
    "Folding",
    "GraphError",
    "GroupStatistics",
    "Keep",
    "LayerCall",
    "LayerStatistics",
    "ModelStatistics",
    "PruningHistory",
    "PruningStep",
    "Removal",
    "Rule",
    "SparsityBudget",
    "Weight",
    "analyze",
    "any_names",
    "check_storable",
    "count_subnormals",
    "fix_inputs",
    "fixing_remark",
    "flush_subnormals",
    "functional_twin",
    "group_statistics",
    "inputs_and_outputs",
    "load_stored",
    "mask",
    "plan_folding",
    "plan_removal",
    "rebuild",
    "register_rule",
    "savable_twin",
    "statistics",
    "stored_form",
    "unknown_sizes",
]
