"""Makes the bundle for phones and boards; see cprune_tf.cli.make_bundle or --help."""

from cprune_tf.cli import make_bundle

if __name__ == "__main__":
    make_bundle.run()
