"""The error of everything that concerns `.tflite` files."""

from __future__ import annotations

from cprune_tf.errors import UserError


class ConversionError(UserError, ValueError):
    """A `.tflite` file that cannot be made, quantised or judged; the message says why."""
