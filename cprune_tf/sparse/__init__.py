"""PatDNN's sparsity: kernels that keep the entries of a pattern, and blocks that share them."""

from cprune_tf.sparse.admm import Admm, LayerConstraint, PatternPruning, Residual, keep_zeros
from cprune_tf.sparse.blocks import order_filters
from cprune_tf.sparse.patterns import PatternSet, default_num_entries, natural_patterns
from cprune_tf.sparse.projection import (
    SparseKernel,
    num_kept_at,
    project,
    project_on_connectivity,
    project_on_patterns,
)

__all__ = [
    "Admm",
    "LayerConstraint",
    "PatternPruning",
    "PatternSet",
    "Residual",
    "SparseKernel",
    "default_num_entries",
    "keep_zeros",
    "natural_patterns",
    "num_kept_at",
    "order_filters",
    "project",
    "project_on_connectivity",
    "project_on_patterns",
]
