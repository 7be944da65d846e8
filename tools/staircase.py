"""Measures latency against channel counts: `python tools/staircase.py --help`."""

from cprune_tf.cli.staircase import run

if __name__ == "__main__":
    run()
