"""The lowering that computes convolutions from kernels and patterns that were kept (PatDNN)."""

from cprune_tf.compiler.lowerings.pattern.lowering import Pattern

__all__ = ["Pattern"]
