"""Exports one of the models that a run accepted; see cprune_tf.cli.export or --help."""

from cprune_tf.cli import export

if __name__ == "__main__":
    export.run()
