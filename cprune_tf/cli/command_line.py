"""The parts that all commands share: flags, and errors as one clear line with exit code 2.

Only a UserError, which the user can mend, ends this way. Any other exception is a bug and keeps its
traceback.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import ml_collections
import rich.console
from absl import app, flags
from ml_collections import config_flags

from cprune_tf import native_output
from cprune_tf.config import reading
from cprune_tf.errors import UserError

_EXIT_CODE = 2
_PLAIN_WIDTH = 150


class UsageError(UserError, ValueError):
    """A flag cannot be used; the message says what was received and what is expected."""


def fail(message: object) -> NoReturn:
    """Prints one line to stderr and exits with code 2."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(_EXIT_CODE)


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow without the remarks that its native code writes to stderr while loading.

    TensorFlow writes them before its log level applies. Errors of the import are still raised.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with native_output.silenced():
        importlib.import_module("tensorflow")


def run_main(main: Callable[[Sequence[str]], None], module_name: str = "") -> None:
    """Runs a command; a UserError becomes one line and exit code 2.

    Args:
        main: The command; its argument is the words of the command line that are no flags.
        module_name: The module whose docstring and key flags --help shows; "" for the module of
            `main`.
    """

    def guarded(argv: Sequence[str]) -> None:
        try:
            main(argv)
        except UserError as error:
            fail(error)

    _describe_in_help(module_name or main.__module__)
    app.run(guarded, flags_parser=_parse_flags)


def existing_file(flag_name: str, path: str) -> pathlib.Path:
    """Checks a flag that names a file to read.

    Args:
        flag_name: The flag's name without dashes.
        path: The flag's value.

    Returns:
        The path.

    Raises:
        UsageError: The file does not exist or cannot be read.
    """
    if not os.path.isfile(path):
        raise UsageError(f"--{flag_name}: there is no file {path!r}.")
    if not os.access(path, os.R_OK):
        raise UsageError(f"--{flag_name}: the file {path!r} cannot be read; check its permissions.")
    return pathlib.Path(path)


def writable_file(flag_name: str, path: str) -> pathlib.Path:
    """Checks a flag that names a file to write, before any work is done for it.

    Args:
        flag_name: The flag's name without dashes.
        path: The flag's value.

    Returns:
        The path.

    Raises:
        UsageError: The file's folder does not exist or cannot be written to, or the path is a
            folder.
    """
    file = pathlib.Path(path)
    if file.is_dir():
        raise UsageError(f"--{flag_name} is {path!r}, which is a folder; expected a file's name.")
    if not file.parent.is_dir():
        raise UsageError(f"--{flag_name} is {path!r}, but there is no folder {file.parent}.")
    if not os.access(file.parent, os.W_OK):
        raise UsageError(
            f"--{flag_name} is {path!r}, but the folder {file.parent} cannot be written to; check "
            "its permissions or choose another."
        )
    return file


def writable_folder(flag_name: str, path: str) -> pathlib.Path:
    """Checks a flag that names a folder to write into, and makes the folder if it is missing.

    Args:
        flag_name: The flag's name without dashes.
        path: The flag's value.

    Returns:
        The path.

    Raises:
        UsageError: The folder cannot be made or written to.
    """
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--{flag_name} is {path!r}, but this folder cannot be made: {error.strerror}. Check "
            "the path and its permissions, or choose another."
        ) from error
    if not os.access(folder, os.W_OK):
        raise UsageError(
            f"--{flag_name} is {path!r}, but this folder cannot be written to; check its "
            "permissions or choose another."
        )
    return folder


def thread_counts(words: Sequence[str]) -> tuple[int, ...]:
    """Reads the words of the flag --threads.

    Args:
        words: The flag's value.

    Returns:
        The numbers of threads, in the given order.

    Raises:
        UsageError: If they are not different positive numbers.
    """
    try:
        counts = tuple(int(word) for word in words)
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
        raise UsageError(
            f"--threads is {','.join(words)!r}; expected positive numbers, each once, like 1,4."
        )
    return counts


def read_config(flag: flags.FlagHolder) -> ml_collections.ConfigDict:
    """Returns the value of a config file flag.

    Args:
        flag: The flag, made by config_flags.DEFINE_config_file.

    Returns:
        The config with the overrides of the command line.
    """
    config = flag.value
    if not isinstance(config, ml_collections.ConfigDict):  # a placeholder for a missing file
        name = config_flags.get_config_filename(flags.FLAGS[flag.name])
        fail(f"the config file {name!r} does not exist or gives no ConfigDict.")
    return config


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line; a word that is no flag is an error."""
    try:
        rest = list(flags.FLAGS([_with_list(word) for word in argv]))
    except (AttributeError, KeyError) as error:  # an override of an unknown field
        fail(f"the config has no such field: {_message(error)}")
    except Exception as error:  # a config file is Python and may raise anything
        fail(f"{_message(error)} (--help lists all flags)")
    if len(rest) > 1:
        fail(f"unexpected arguments: {' '.join(rest[1:])} (flags are written --name=value).")
    return rest


def _with_list(word: str) -> str:
    """Writes --config.protect=head*,stem as ml_collections reads it: with quotes."""
    name, equals, value = word.partition("=")
    prefix, _, field = name.lstrip("-").partition(".")
    # Other flags may have a field's name, such as --protect of tools/inspect_model.py.
    of_config = name.startswith("-") and prefix == "config" and field in reading.text_lists()
    if not equals or not of_config:
        return word
    if value[:1] in ("(", "[", "'", '"'):
        return word
    return f"{name}={tuple(item.strip() for item in value.split(',') if item.strip())!r}"


def _message(error: Exception) -> str:
    """Returns an error's message without the traceback that absl adds to some messages."""
    text = str(error.args[0]) if error.args else type(error).__name__
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if any(line.startswith("Traceback") or "Traceback (" in line for line in lines):
        return f"{lines[0].partition('Traceback')[0].strip()} {lines[-1].strip()}"
    # ml_collections adds quotes around an unknown field's name each time it raises the error again.
    text = " ".join(lines).replace("\\n", " ").replace("\\", "").replace("'", "")
    return text.replace(" Did you mean", ". Did you mean")


def _describe_in_help(module_name: str) -> None:
    """Lets --help show the docstring and flags of a module, whichever script was started."""
    values = flags.FLAGS
    for flag in values.get_key_flags_for_module(module_name):
        values.register_key_flag_for_module(sys.argv[0], flag)
    sys.modules["__main__"].__doc__ = sys.modules[module_name].__doc__


def make_console() -> rich.console.Console:
    """Makes the console that a command prints to, wide enough for tables without a terminal."""
    console = rich.console.Console()
    return console if console.is_terminal else rich.console.Console(width=_PLAIN_WIDTH)
