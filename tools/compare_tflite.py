"""Cross-checks runtimes on a device; see cprune_tf.cli.compare_tflite or --help."""

from cprune_tf.cli import compare_tflite

if __name__ == "__main__":
    compare_tflite.run()
