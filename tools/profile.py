"""Shows where a model's latency lies: `python tools/profile.py --help`."""

from cprune_tf.cli.profile import run

if __name__ == "__main__":
    run()
