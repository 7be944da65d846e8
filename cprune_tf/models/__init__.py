"""Model builders, embedded trained models, and the loading of users' models."""

from cprune_tf.models.classifier import shape_and_classes
from cprune_tf.models.errors import ModelError
from cprune_tf.models.fixed import with_fixed_inputs
from cprune_tf.models.loader import load_model
from cprune_tf.models.resnet import resnet8
from cprune_tf.models.small import mobilenet_small, vgg_small

__all__ = [
    "ModelError",
    "load_model",
    "mobilenet_small",
    "resnet8",
    "shape_and_classes",
    "vgg_small",
    "with_fixed_inputs",
]
