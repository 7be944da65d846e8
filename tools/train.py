"""Trains a model from the command line: `python tools/train.py --help`."""

from cprune_tf.cli.train import run

if __name__ == "__main__":
    run()
