"""The run directory: journal, atomic files, environment, progress."""

from __future__ import annotations

from cprune_tf.runs.directory import RunDirectory, RunDirectoryError
from cprune_tf.runs.files import StorageError
from cprune_tf.runs.journal import Journal, JournalError, read_events
from cprune_tf.runs.lock import LockedError
from cprune_tf.runs.progress import Progress, Stage

__all__ = [
    "Journal",
    "JournalError",
    "LockedError",
    "Progress",
    "RunDirectory",
    "RunDirectoryError",
    "Stage",
    "StorageError",
    "read_events",
]
