"""Keras 3 to TVM Relax: the importer.

`import_model(model)` yields an `ImportedModel`: a Relax module whose parameters are named inputs
("conv1/kernel"), and the exact account of which Keras layers every parameter and every computed
value came from. `provenance` carries that account over operator fusion.

Adding a converter, for a layer of your own or for one that is missing here::

    from tvm import relax
    from cprune_tf.compiler.importer import register_converter

    @register_converter(MyScale)                  # the layer's class, matched exactly
    def convert_my_scale(emitter, layer, x):      # x: a Relax variable; or a list of them
        scale = emitter.param("scale", layer.scale)      # becomes the parameter "NAME/scale"
        return emitter.emit(relax.op.multiply(x, scale))

A converter receives the arguments of the recorded Keras call with tensors replaced by Relax
variables (`training` left out), and returns variables of the same shapes as Keras's outputs.
Everything it emits through `emitter` is attributed to the layer. It raises
`UnsupportedOperationError(reason)` for settings it does not know; `import_model` names all such
layers in one error. The operation classes behind `keras.ops` are registered as "ops.Add",
"ops.Reshape", ...
"""

from cprune_tf.compiler.importer import (  # noqa: F401  (they register their converters)
    activation,
    applications,
    attention,
    convolution,
    dense,
    merging,
    normalization,
    pooling,
    raw_ops,
    shaping,
    transposed,
)
from cprune_tf.compiler.importer.frontends import MissingTfliteError, import_through
from cprune_tf.compiler.importer.importing import ImportedModel, import_model
from cprune_tf.compiler.importer.provenance import ProvenanceError, provenance
from cprune_tf.compiler.importer.registry import (
    UnsupportedOperation,
    UnsupportedOperationError,
    register_converter,
)

__all__ = [
    "ImportedModel",
    "MissingTfliteError",
    "ProvenanceError",
    "UnsupportedOperation",
    "UnsupportedOperationError",
    "import_model",
    "import_through",
    "provenance",
    "register_converter",
]
