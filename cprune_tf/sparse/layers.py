"""Which layers of a model become sparse, and how."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from cprune_tf.sparse.admm import LayerConstraint
from cprune_tf.sparse.blocks import order_filters
from cprune_tf.sparse.patterns import (
    MAX_KERNEL_SIZE,
    PatternSet,
    default_num_entries,
    natural_patterns,
)
from cprune_tf.sparse.projection import num_kept_at

# Of names of layers with fnmatch, and what holds for them.
Overrides = Sequence[tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class SparseSettings:
    """How the layers of a model become sparse.

    Attributes:
        num_patterns: Patterns for each kernel size.
        entries_of_nine: Entries that a pattern keeps of 3x3; other sizes keep the same share.
        connectivity_rate: All kernels of a layer / those that stay.
        layer_rates: Other rates for layers whose name matches; the first match counts.
        block_size: Filters that share kernels and patterns.
        layer_block_sizes: Other sizes for layers whose name matches; the first match counts.
        spare_first: Whether all kernels of the first convolution stay, as in PatDNN.
        pointwise: Whether layers with kernels of 1x1 lose some of them.
        protect: Layer-name patterns (fnmatch) of layers that stay as they are.
    """

    num_patterns: int = 8
    entries_of_nine: int = 4
    connectivity_rate: float = 3.6
    layer_rates: Overrides = ()
    block_size: int = 1
    layer_block_sizes: Overrides = ()
    spare_first: bool = True
    pointwise: bool = False
    protect: Sequence[str] = ()


def sparse_layers(model: keras.Model, settings: SparseSettings) -> tuple[str, ...]:
    """Finds the layers that become sparse.

    These are all convolutions over images, depthwise ones included, that training changes and
    whose kernels have at least two entries; with `pointwise`, those of one entry, too. Transposed
    and separable ones stay dense.

    Args:
        model: Without nested models.
        settings: How.

    Returns:
        Their names, in the model's order.
    """
    return tuple(layer.name for layer in model.layers if _becomes_sparse(layer, settings))


def unmatched(model: keras.Model, settings: SparseSettings) -> tuple[str, ...]:
    """Returns the patterns of `layer_rates` and `layer_block_sizes` that no sparse layer matches.

    Args:
        model: Without nested models.
        settings: How.
    """
    names = sparse_layers(model, settings)
    given = (*settings.layer_rates, *settings.layer_block_sizes)
    return tuple(pattern for pattern, _ in given if not fnmatch.filter(names, pattern))


def plan_constraints(model: keras.Model, settings: SparseSettings) -> dict[str, LayerConstraint]:
    """Works out patterns, connectivity and blocks of all layers from a model's weights.

    Kernels of each size have a pattern set of their own. All kernels of depthwise and grouped
    convolutions stay, and each filter is a block of its own there.

    Args:
        model: The pretrained model, without nested models.
        settings: How.

    Returns:
        By the names of `sparse_layers`.
    """
    kernels = {
        name: np.asarray(model.get_layer(name).kernel) for name in sparse_layers(model, settings)
    }
    sets = _pattern_sets(kernels, settings)
    first = next((layer.name for layer in model.layers if _is_convolution(layer)), None)
    constraints = {}
    for name, kernel in kernels.items():
        rate = _chosen(name, settings.layer_rates, settings.connectivity_rate)
        block_size = int(_chosen(name, settings.layer_block_sizes, settings.block_size))
        if _by_channel(model.get_layer(name)):
            rate, block_size = 1.0, 1
        elif settings.spare_first and name == first:
            rate = 1.0
        patterns = sets[kernel.shape[:2]]
        constraints[name] = _constraint(kernel, patterns, rate, block_size)
    return constraints


def _constraint(
    kernel: np.ndarray, patterns: PatternSet, rate: float, block_size: int
) -> LayerConstraint:
    num_inputs, num_outputs = kernel.shape[2:]
    block_size = min(block_size, num_outputs)
    num_kept = num_kept_at(rate, num_inputs, num_outputs, block_size) if rate > 1 else 0
    num_blocks = math.ceil(num_outputs / block_size)
    per_block = num_kept // num_blocks if num_kept else num_inputs
    order = order_filters(kernel, patterns, per_block, block_size)
    return LayerConstraint(patterns, num_kept, block_size, order, balanced=True)


def _pattern_sets(
    kernels: Mapping[str, np.ndarray], settings: SparseSettings
) -> dict[tuple[int, ...], PatternSet]:
    sets: dict[tuple[int, ...], PatternSet] = {}
    for height, width in sorted({kernel.shape[:2] for kernel in kernels.values()}):
        of_size = [kernel for kernel in kernels.values() if kernel.shape[:2] == (height, width)]
        num_entries = default_num_entries(height, width, settings.entries_of_nine)
        sets[height, width] = natural_patterns(of_size, settings.num_patterns, num_entries)
    return sets


def _becomes_sparse(layer: keras.layers.Layer, settings: SparseSettings) -> bool:
    if not _is_convolution(layer) or not layer.kernel.trainable:
        return False
    if any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in settings.protect):
        return False
    size = math.prod(layer.kernel.shape[:2])
    # A depthwise kernel of one entry is a factor for a channel: nothing of it can go.
    least = 1 if settings.pointwise and not _by_channel(layer) else 2
    return least <= size <= MAX_KERNEL_SIZE


def _is_convolution(layer: keras.layers.Layer) -> bool:
    """Whether a layer has a kernel [height, width, inputs, outputs]."""
    return type(layer) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def _by_channel(layer: Any) -> bool:
    """Whether each filter reads only some channels by the layer's own design."""
    return type(layer) is keras.layers.DepthwiseConv2D or layer.groups > 1


def _chosen(name: str, overrides: Overrides, default: float) -> float:
    matching = (value for pattern, value in overrides if fnmatch.fnmatchcase(name, pattern))
    return next(matching, default)
