"""The run directory: where everything a run makes is kept, and how it is entered."""

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
FOLDERS = ("tuning", "models", "figures", "deploy", "tensorboard")


class RunDirectoryError(UserError, RuntimeError):
    """A directory that cannot be entered as asked; says what to do instead."""


class RunDirectory:
    """One run's directory, locked for this process; made by `create` or `open`.

    Attributes:
        root: The directory.
        config: What the run is decided by.
        journal: Its record, open for appending.
        resumed: Whether the run had begun before.
        environment_changes: How the machine or the packages differ from those the run began with
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
        """Makes a new run.

        Args:
            workdir: Its directory; made where missing.
            config: What the run is decided by.

        Returns:
            The run, locked.

        Raises:
            RunDirectoryError: Where a run is there already.
            LockedError: Where another process works there.
            StorageError: Where the file system refuses.
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
        """Makes a new run or goes on with the one that is there.

        Args:
            workdir: Its directory; made where missing.
            config: What the run is decided by.
            resume: Go on with a run that is there; where none is, a new one begins (a run may be
                killed before it has written anything).

        Returns:
            The run, locked.

        Raises:
            RunDirectoryError: Where a run is there and `resume` is false, or was made with
                another config: the error lists the fields that differ.
            JournalError: Where its journal is damaged.
            LockedError: Where another process works there.
            StorageError: Where the file system refuses.
        """
        root = pathlib.Path(workdir)
        if root.exists() and not root.is_dir():
            raise RunDirectoryError(f"{root} is a file; expected a directory for the run.")
        _refuse_unless_resumed(root, resume)
        journal = Journal(root / JOURNAL_NAME, RUN_EVENTS)
        try:
            resumed = (root / CONFIG_NAME).exists() or bool(journal.records)
            if resumed:
                # Again, now under the lock: another process may have begun a run since.
                _refuse_unless_resumed(root, resume)
                _refuse_other_config(root, config)
            run = cls(root, config, journal, resumed)
            run._prepare()
        except BaseException:
            journal.close()
            raise
        return run

    @property
    def config_hash(self) -> str:
        """A short name for the config: equal configs, equal hashes."""
        return config_hash(self.config)

    @property
    def log_path(self) -> pathlib.Path:
        """Where progress is logged."""
        return self.root / LOG_NAME

    @property
    def tuning_dir(self) -> pathlib.Path:
        """The tuning database's folder."""
        return self.root / "tuning"

    @property
    def tensorboard_dir(self) -> pathlib.Path:
        """The training curves' folder."""
        return self.root / "tensorboard"

    def path(self, relative_name: str) -> pathlib.Path:
        """A file of this run.

        Args:
            relative_name: For example "models/iter_0003.keras".

        Returns:
            Its path.

        Raises:
            ValueError: For a name that leads out of the directory.
        """
        path = self.root / relative_name
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ValueError(f"{relative_name!r} leads out of the run directory {self.root}.")
        return path

    def save_model(self, model: Any, relative_name: str) -> pathlib.Path:
        """Saves a Keras model; the file is whole or absent.

        Args:
            model: The `keras.Model`.
            relative_name: For example "models/iter_0003.keras".

        Returns:
            The file's path.

        Raises:
            ValueError: For a name without `.keras` or one that leads out of the directory.
            StorageError: Where the file system refuses.
        """
        if not relative_name.endswith(".keras"):
            raise ValueError(f"Model name {relative_name!r}: expected it to end in .keras.")
        path = self.path(relative_name)
        with files.replacing(path) as temporary:
            model.save(temporary)
        return path

    def write_bytes(self, relative_name: str, data: bytes) -> pathlib.Path:
        """Writes a file of this run; it is whole or absent."""
        path = self.path(relative_name)
        files.write_bytes(path, data)
        return path

    def write_json(self, relative_name: str, value: Any) -> pathlib.Path:
        """Writes dataclasses, numpy values and plain types as a JSON file, whole or absent."""
        path = self.path(relative_name)
        files.write_json(path, value)
        return path

    def read_json(self, relative_name: str) -> Any:
        """Reads a JSON file of this run."""
        return _read_json(self.path(relative_name))

    def close(self) -> None:
        """Gives the directory up; safe to call again."""
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
        # Last: from here on the directory holds a run.
        if not (self.root / CONFIG_NAME).exists():
            self.write_json(CONFIG_NAME, self.config.to_json_dict())

    def _note_environment_changes(self, now: dict[str, Any]) -> None:
        before = self.read_json(ENVIRONMENT_NAME)
        known = self.journal.last(EnvironmentChanged)
        if known is not None:
            before = known.now
        self.environment_changes = differences.compare(before, now)
        if self.environment_changes:
            changes = tuple(str(change) for change in self.environment_changes)
            self.journal.append(EnvironmentChanged(changes, now))


def config_hash(config: config_lib.PruneConfig) -> str:
    """Names a config: 12 hexadecimal digits that depend on every field's value."""
    text = json.dumps(config.to_json_dict(), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def _refuse_unless_resumed(root: pathlib.Path, resume: bool) -> None:
    if not resume and (root / CONFIG_NAME).exists():
        raise RunDirectoryError(
            f"{root} holds a run already; pass --resume to go on with it, or choose another "
            "--workdir."
        )


def _refuse_other_config(root: pathlib.Path, config: config_lib.PruneConfig) -> None:
    path = root / CONFIG_NAME
    if not path.exists():
        raise RunDirectoryError(
            f"{root} holds a journal but no {CONFIG_NAME}, so what it was run with is not known; "
            "choose another --workdir."
        )
    changes = differences.compare(_read_json(path), config.to_json_dict())
    if changes:
        listed = "; ".join(f"config.{change}" for change in changes)
        raise RunDirectoryError(
            f"{root} was begun with another config, so its results cannot be gone on with "
            f"({listed}). Pass the same values, or choose another --workdir."
        )


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunDirectoryError(
            f"{path} is not JSON ({error}); restore it from a copy, or choose another --workdir."
        ) from error
