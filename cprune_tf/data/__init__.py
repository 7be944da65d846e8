"""Labelled images: the embedded set, or larger ones by name or path."""

from cprune_tf.data.datasets import from_datasets
from cprune_tf.data.image_data import DataError, ImageData
from cprune_tf.data.loader import load

__all__ = ["DataError", "ImageData", "from_datasets", "load"]
