"""The run directory: holds everything that a run writes, and is locked while the run works."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from typing import Any

from cprune_tf import config as config_lib
from cprune_tf.errors import UserError
from cprune_tf.runs import differences, environment
from cprune_tf.runs.differences import Difference
from cprune_tf.runs.events import RUN_EVENTS, EnvironmentChanged
from cprune_tf.runs.journal import Journal
from cprune_tf.storage import files

CONFIG_NAME = "config.json"
ENVIRONMENT_NAME = "environment.json"
JOURNAL_NAME = "journal.jsonl"
LOG_NAME = "run.log"
# Fields that change no decision: a run may go on with other values.
_MAY_DIFFER = frozenset({"dry_run", "ray_address"})
FOLDERS = ("tuning", "models", "figures", "deploy", "tensorboard", "checkpoints")


class RunDirectoryError(UserError, RuntimeError):
    """Raised if a run cannot begin or resume in a directory; says what to do instead."""


class RunDirectory:
    """One run's directory, locked for this process; made by `create` or `open`.

    Attributes:
        root: The directory.
        config: The run's configuration.
        journal: The run's journal, open for appending.
        resumed: Whether an earlier session had begun the run.
        environment_changes: How the machine and the packages differ from those of the last session
            (also journalled, as EnvironmentChanged).
    """

    def __init__(
        self, root: pathlib.Path, config: config_lib.PruneConfig, journal: Journal, resumed: bool
    ) -> None:
        """Use `create` or `open`."""
        self.root = root
        self.config = config
        self.journal = journal
        self.resumed = resumed
        self.environment_changes: tuple[Difference, ...] = ()

    @classmethod
    def create(
        cls, workdir: str | os.PathLike[str], config: config_lib.PruneConfig
    ) -> RunDirectory:
        """Begins a new run.

        Args:
            workdir: The run's directory; it is created if it does not exist.
            config: The run's configuration.

        Returns:
            The run directory, locked.

        Raises:
            RunDirectoryError: If the directory already holds a run.
            LockedError: If another process works in the directory.
            StorageError: If the directory cannot be written.
        """
        return cls.open(workdir, config, resume=False)

    @classmethod
    def open(
        cls,
        workdir: str | os.PathLike[str],
        config: config_lib.PruneConfig,
        *,
        resume: bool = False,
    ) -> RunDirectory:
        """Begins a new run, or resumes the run that the directory holds.

        Args:
            workdir: The run's directory; it is created if it does not exist.
            config: The run's configuration.
            resume: Whether to resume a run that the directory holds. If it holds none, a new run
                begins, since a run may be killed before it has written anything.

        Returns:
            The run directory, locked.

        Raises:
            RunDirectoryError: If the directory holds a run and `resume` is false, or if the run
                began with another config; the error then lists the fields that differ.
            JournalError: If the run's journal is damaged.
            LockedError: If another process works in the directory.
            StorageError: If the directory cannot be written.
        """
        root = pathlib.Path(workdir)
        if root.exists() and not root.is_dir():
            raise RunDirectoryError(f"{root} is a file; expected a directory for the run.")
        _refuse_unless_resumed(root, resume)
        journal = Journal(root / JOURNAL_NAME, RUN_EVENTS)
        try:
            resumed = (root / CONFIG_NAME).exists() or bool(journal.records)
            if resumed:
                # Checked again under the lock, since another process may have begun a run.
                _refuse_unless_resumed(root, resume)
                refuse_other_config(root, config)
            run = cls(root, config, journal, resumed)
            run._prepare()
        except BaseException:
            journal.close()
            raise
        return run

    @property
    def config_hash(self) -> str:
        """A short name of the config; equal configs have equal hashes."""
        return config_hash(self.config)

    @property
    def log_path(self) -> pathlib.Path:
        """The file that progress is logged to."""
        return self.root / LOG_NAME

    @property
    def tuning_dir(self) -> pathlib.Path:
        """The folder of the tuning database."""
        return self.root / "tuning"

    @property
    def points_path(self) -> pathlib.Path:
        """The file of measured task latencies at other channel counts."""
        return self.root / "points.jsonl"

    @property
    def tensorboard_dir(self) -> pathlib.Path:
        """The folder of the training curves."""
        return self.root / "tensorboard"

    @property
    def checkpoint_dir(self) -> pathlib.Path:
        """The folder that keeps the state of an interrupted training."""
        return self.root / "checkpoints"

    def path(self, relative_name: str) -> pathlib.Path:
        """Returns the path of a file of this run.

        Args:
            relative_name: The file's name in the run directory, e.g. "models/iter_0003.keras".

        Returns:
            The file's path; the file may not exist yet.

        Raises:
            ValueError: If the name leads out of the run directory.
        """
        path = self.root / relative_name
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ValueError(
                f"{relative_name!r} leads out of the run directory {self.root}; expected a name "
                "inside it."
            )
        return path

    def save_model(self, model: Any, relative_name: str) -> pathlib.Path:
        """Saves a Keras model; the file is either whole or absent.

        The file holds no compile state and no model class of the user's (`graph.stored_form`).

        Args:
            model: The `keras.Model`.
            relative_name: The file's name in the run directory, e.g. "models/iter_0003.keras".

        Returns:
            The file's path.

        Raises:
            ValueError: If the name does not end in `.keras` or leads out of the run directory.
            StorageError: If the file cannot be written.
        """
        if not relative_name.endswith(".keras"):
            raise ValueError(f"Model name {relative_name!r}: expected it to end in .keras.")
        from cprune_tf import graph  # opening a directory needs no Keras

        path = self.path(relative_name)
        with files.replacing(path) as temporary:
            graph.stored_form(model).save(temporary)
        return path

    def write_bytes(self, relative_name: str, data: bytes) -> pathlib.Path:
        """Writes a file of this run; the file is either whole or absent."""
        path = self.path(relative_name)
        files.write_bytes(path, data)
        return path

    def write_json(self, relative_name: str, value: Any) -> pathlib.Path:
        """Writes dataclasses, numpy values and plain types as a JSON file of this run."""
        path = self.path(relative_name)
        files.write_json(path, value)
        return path

    def read_json(self, relative_name: str) -> Any:
        """Reads a JSON file of this run."""
        return _read_json(self.path(relative_name))

    def close(self) -> None:
        """Unlocks the directory; calling it again does nothing."""
        self.journal.close()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _prepare(self) -> None:
        for name in FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        files.remove_partial(self.root)
        now = environment.describe_environment()
        if (self.root / ENVIRONMENT_NAME).exists():
            self._note_environment_changes(now)
        else:
            self.write_json(ENVIRONMENT_NAME, now)
        # This comes last, since a directory with a config counts as one that holds a run.
        if not (self.root / CONFIG_NAME).exists():
            self.write_json(CONFIG_NAME, self.config.to_json_dict())

    def _note_environment_changes(self, now: dict[str, Any]) -> None:
        before = self.read_json(ENVIRONMENT_NAME)
        last_change = self.journal.last(EnvironmentChanged)
        if last_change is not None:
            before = last_change.now
        self.environment_changes = differences.compare(before, now)
        if self.environment_changes:
            changes = tuple(str(change) for change in self.environment_changes)
            self.journal.append(EnvironmentChanged(changes, now))


def config_hash(config: config_lib.PruneConfig) -> str:
    """Returns 12 hexadecimal digits that depend on the value of every field of a config."""
    text = json.dumps(config.to_json_dict(), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def _refuse_unless_resumed(root: pathlib.Path, resume: bool) -> None:
    if not resume and (root / CONFIG_NAME).exists():
        raise RunDirectoryError(
            f"{root} already holds a run; pass --resume to continue it, or choose another "
            "--workdir."
        )


def refuse_other_config(root: pathlib.Path, config: config_lib.PruneConfig) -> None:
    """Raises RunDirectoryError unless the run in a directory began with this config."""
    path = root / CONFIG_NAME
    if not path.exists():
        raise RunDirectoryError(
            f"{root} holds a journal but no {CONFIG_NAME}, so the run's config is unknown; "
            "choose another --workdir."
        )
    compared = differences.compare(_read_json(path), config.to_json_dict())
    changes = [change for change in compared if not _changes_nothing(change)]
    if changes:
        fields = "; ".join(f"config.{change}" for change in changes)
        raise RunDirectoryError(
            f"The run in {root} began with another config, so it cannot be resumed with this one "
            f"({fields}). Pass the same values, or choose another --workdir."
        )


def _changes_nothing(change: differences.Difference) -> bool:
    """Whether a run may go on with this difference: also a later version's field at its default."""
    if change.before is differences.ABSENT:
        defaults = differences.flatten(config_lib.PruneConfig().to_json_dict())
        return change.field in defaults and change.now == defaults[change.field]
    return change.field in _MAY_DIFFER


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunDirectoryError(
            f"{path} is not JSON ({error}); restore it from a copy, or choose another --workdir."
        ) from error
