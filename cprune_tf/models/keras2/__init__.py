"""Reads models that Keras 2 (`tf.keras` up to TensorFlow 2.15, `tf_keras`) saved as `.h5`.

Keras 3 writes the same models in another notation. The model is built again, layer by layer, from
the config in the file:

- `reading`: the file, and the graph: which layer is called with what.
- `layers`: the layers' configs.
- `operations`: calls of TensorFlow's own functions, which Keras 2 saved as layers.
- `weights`: the arrays.

What the loaded model computes is what Keras 2 computed, or the file is refused by the layer's name.
"""

from cprune_tf.models.keras2.reading import is_keras2_file, read

__all__ = ["is_keras2_file", "read"]
