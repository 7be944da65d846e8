"""Times models on a device; see cprune_tf.cli.benchmark or --help."""

from cprune_tf.cli import benchmark

if __name__ == "__main__":
    benchmark.run()
