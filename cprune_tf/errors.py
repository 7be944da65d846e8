"""The base of all errors that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can mend: the message says what was received and what to do.

    Commands print it as one line and exit with code 2. Whatever is not a UserError is a bug and
    keeps its traceback.
    """
