"""The run directory, its journal and events, the environment, and progress."""

from __future__ import annotations

from cprune_tf.runs.directory import RunDirectory, RunDirectoryError
from cprune_tf.runs.journal import Journal, read_records
from cprune_tf.runs.progress import Progress, Stage
from cprune_tf.runs.records import JournalError, Record, Schema

__all__ = [
    "Journal",
    "JournalError",
    "Progress",
    "Record",
    "RunDirectory",
    "RunDirectoryError",
    "Schema",
    "Stage",
    "read_records",
]
