"""Labelled images: the embedded set, or larger ones by name or path; and samples of any task."""

from cprune_tf.data.datasets import from_datasets
from cprune_tf.data.image_data import DataError, ImageData
from cprune_tf.data.loader import load, load_samples
from cprune_tf.data.samples import SampleData, from_samples
from cprune_tf.data.sources import set_apart

# What a run prunes with.
Data = ImageData | SampleData

__all__ = [
    "Data",
    "DataError",
    "ImageData",
    "SampleData",
    "from_datasets",
    "from_samples",
    "load",
    "load_samples",
    "set_apart",
]
