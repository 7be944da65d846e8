"""Keras 3 to TVM Relax: the importer.

`import_model(model)` returns an `ImportedModel`: a Relax module whose parameters are named inputs
("conv1/kernel"), and an exact record of the Keras layers that every parameter and every computed
value came from. `provenance` carries that record over operator fusion.

Register a converter for a custom layer, or for a Keras layer that has none here, like this::

    from tvm import relax
    from cprune_tf.compiler.importer import register_converter

    @register_converter(MyScale)                  # the layer's class, matched exactly
    def convert_my_scale(emitter, layer, x):      # x: a Relax variable, or a list of them
        scale = emitter.param("scale", layer.scale)      # the parameter "LAYER/scale"
        return emitter.emit(relax.op.multiply(x, scale))

A converter receives the arguments of the recorded Keras call: Relax variables replace the tensors,
and `training` is left out. It returns variables of the same shapes as Keras's outputs. Everything
that it emits through `emitter` is attributed to the layer. It raises
`UnsupportedOperationError(reason)` for settings that it does not support; `import_model` names all
such layers in one error. The operation classes behind `keras.ops` are registered as "ops.Add",
"ops.Reshape", ...
"""

from cprune_tf.compiler.importer import (  # noqa: F401  (each registers its converters)
    activation,
    applications,
    attention,
    augmentation,
    convolution,
    dense,
    elementwise_ops,
    keras_hub,
    merging,
    normalization,
    parameters,
    pooling,
    raw_ops,
    recurrent,
    shaping,
    spatial_ops,
    transposed,
)
from cprune_tf.compiler.importer.frontends import MissingTfliteError, import_through
from cprune_tf.compiler.importer.importing import ImportedModel, import_model
from cprune_tf.compiler.importer.provenance import ProvenanceError, provenance
from cprune_tf.compiler.importer.registry import (
    UnsupportedOperation,
    UnsupportedOperationError,
    has_converter,
    register_converter,
)

__all__ = [
    "ImportedModel",
    "MissingTfliteError",
    "ProvenanceError",
    "UnsupportedOperation",
    "UnsupportedOperationError",
    "has_converter",
    "import_model",
    "import_through",
    "provenance",
    "register_converter",
]
