"""Checks a device; see cprune_tf.cli.doctor or --help."""

from cprune_tf.cli import doctor

if __name__ == "__main__":
    doctor.run()
