"""PatDNN's sparsity: kernels that keep the entries of a pattern, and blocks that share them."""

from cprune_tf.sparse.admm import Admm, LayerConstraint, Residual, project_model
from cprune_tf.sparse.blocks import order_filters
from cprune_tf.sparse.kept_file import KeptFileError, load_kept, save_kept
from cprune_tf.sparse.kernels import fingerprint, hold_zeros, keep_zeros, kernel_of
from cprune_tf.sparse.layers import SparseSettings, plan_constraints, sparse_layers, unmatched
from cprune_tf.sparse.patterns import PatternSet, default_num_entries, natural_patterns
from cprune_tf.sparse.projection import (
    REMOVED,
    SparseKernel,
    num_kept_at,
    project,
    project_on_connectivity,
    project_on_patterns,
)
from cprune_tf.sparse.pull import PatternPruning, Pull
from cprune_tf.sparse.storage import FkwError, FkwKernel, to_fkw

__all__ = [
    "REMOVED",
    "Admm",
    "FkwError",
    "FkwKernel",
    "KeptFileError",
    "LayerConstraint",
    "PatternPruning",
    "PatternSet",
    "Pull",
    "Residual",
    "SparseKernel",
    "SparseSettings",
    "default_num_entries",
    "fingerprint",
    "hold_zeros",
    "keep_zeros",
    "kernel_of",
    "load_kept",
    "natural_patterns",
    "num_kept_at",
    "order_filters",
    "plan_constraints",
    "project",
    "project_model",
    "project_on_connectivity",
    "project_on_patterns",
    "save_kept",
    "sparse_layers",
    "to_fkw",
    "unmatched",
]
