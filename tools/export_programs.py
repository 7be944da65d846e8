"""Collects programs for new runs to start from: `python tools/export_programs.py --help`."""

from cprune_tf.cli.export_programs import run

if __name__ == "__main__":
    run()
