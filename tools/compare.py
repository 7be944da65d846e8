"""Compares strategies on one model and device; see cprune_tf.cli.compare or --help."""

from cprune_tf.cli import compare

if __name__ == "__main__":
    compare.run()
