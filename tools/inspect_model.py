"""Shows what can be pruned in a model: `python tools/inspect_model.py --help`."""

from cprune_tf.cli.inspect_model import run

if __name__ == "__main__":
    run()
