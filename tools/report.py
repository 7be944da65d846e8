"""Makes a run's report anew from the command line: `python tools/report.py --help`."""

from cprune_tf.cli.report import run

if __name__ == "__main__":
    run()
