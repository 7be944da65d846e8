"""Prunes a model; see cprune_tf.cli.prune or --help."""

from cprune_tf.cli import prune

if __name__ == "__main__":
    prune.run()
