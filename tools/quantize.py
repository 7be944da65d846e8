"""Converts a Keras model to an int8 .tflite file; see cprune_tf.cli.quantize or --help."""

from cprune_tf.cli import quantize

if __name__ == "__main__":
    quantize.run()
