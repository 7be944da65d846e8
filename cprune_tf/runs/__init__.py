"""The run directory: journal, atomic files, environment, progress."""

from __future__ import annotations

from cprune_tf.runs.directory import RunDirectory, RunDirectoryError
from cprune_tf.runs.journal import Journal, JournalError, read_events
from cprune_tf.runs.progress import Progress, Stage
from cprune_tf.storage.files import StorageError
from cprune_tf.storage.lock import LockedError

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
