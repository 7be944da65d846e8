"""Finds the splits and the classes in a folder of images, however people name and wrap them."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from cprune_tf.data.image_data import DataError

# Of files with other endings, e.g. labels.txt, nobody expects that they are read. What is in a file
# is told by its content.
_READ_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
)
# Not read, so they are listed instead of missing silently.
_OTHER_SUFFIXES = (".heic", ".heif", ".avif")
_IMAGE_SUFFIXES = frozenset((*_READ_SUFFIXES, *_OTHER_SUFFIXES))
_ROLES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
# Words that say nothing: training_set, test-images, traindata.
_FILLERS = ("dataset", "set", "data", "images", "imgs", "split")
_ARCHIVERS_FOLDER = "__MACOSX"
_MAX_NAMES = 10


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the images of a folder are.

    Attributes:
        classes: The names of the class folders, sorted.
        train: The folder with the class folders of the training images.
        validation: The same for the images that decide; None: there is no third split.
        test: The same for the test images; None: there is only one split.
        notes: What the user should know about what was found.
    """

    classes: tuple[str, ...]
    train: pathlib.Path
    validation: pathlib.Path | None = None
    test: pathlib.Path | None = None
    notes: tuple[str, ...] = ()


def find_layout(root: pathlib.Path) -> Layout:
    """Finds the splits and classes of a folder.

    Args:
        root: The folder; it may be wrapped in folders that hold nothing else.

    Returns:
        Where the images are.

    Raises:
        DataError: If there are no class folders, if it is not clear which folders are which, or if
            the splits have different classes.
    """
    root = _unwrapped(root)
    names = _folders(root)
    splits = _splits(root, names)
    if not splits:
        return Layout(_classes(root), root)
    if "train" not in splits:
        found = ", ".join(repr(path.name) for path in splits.values())
        raise DataError(
            f"{root} has {found}, which is no class but a split, and no folder with the training "
            "images; expected a folder 'train' beside it, with the same classes."
        )
    others = sorted(set(names) - {path.name for path in splits.values()})
    if len(splits) == 1:
        raise DataError(
            f"{root} has a folder {splits['train'].name!r} but none for testing; expected 'test', "
            "'val' or 'validation' beside it, with the same classes."
        )
    notes = [f"{root}: {_named(others)} is left out, since it is no split."] if others else []
    folders = {role: _unwrapped(path, inside_split=True) for role, path in splits.items()}
    for role in sorted(set(folders) - {"train"}):
        if not _folders(folders[role]):
            folder = folders.pop(role)
            notes.append(f"{folder} is left out: it has no class folders, so no labels.")
    classes = _classes(folders["train"])
    for role, folder in folders.items():
        if role != "train":
            _check_same_classes(folders["train"], classes, folder)
    validation, test = folders.get("validation"), folders.get("test")
    if test is None:
        validation, test = None, validation
    return Layout(classes, folders["train"], validation, test, tuple(notes))


def image_paths(folder: pathlib.Path) -> list[str]:
    """Lists the files in a class folder, and in the folders in it, that should be images.

    Args:
        folder: The class folder.

    Returns:
        Sorted paths. Hidden files and folders, and what systems leave behind, are not among them.
    """
    paths: list[str] = []
    for parent, names, files in os.walk(folder):
        names[:] = [name for name in names if _is_visible(name)]
        paths += [
            os.path.join(parent, name)
            for name in files
            if _is_visible(name) and os.path.splitext(name)[1].lower() in _IMAGE_SUFFIXES
        ]
    return sorted(paths)


def _splits(root: pathlib.Path, names: Sequence[str]) -> dict[str, pathlib.Path]:
    """The folders that are splits, by their role; empty if all of them are classes."""
    by_prefix: dict[str, dict[str, list[str]]] = {}
    for name in names:
        prefix, role = _role(name)
        if role:
            by_prefix.setdefault(prefix, {}).setdefault(role, []).append(name)
    # "test_tube" and "train station" are classes; "seg_train" beside "seg_test" is a split.
    groups = [group for prefix, group in by_prefix.items() if not prefix or len(group) > 1]
    roles: dict[str, list[str]] = {}
    for group in groups:
        for role, found in group.items():
            roles.setdefault(role, []).extend(found)
    for role, found in roles.items():
        if len(found) > 1:
            raise DataError(
                f"{root} has {_named(found)}, which all look like the {role} split; expected one. "
                "Give the folder that holds the right ones, or remove the others."
            )
    if list(roles) == ["train"] and not _folders(root / roles["train"][0]):
        return {}  # a class of vehicles
    return {role: root / found[0] for role, found in roles.items()}


def _role(name: str) -> tuple[str, str]:
    """What stands before a split's name, and the split; ("", "") for any other name."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    while len(words) > 1 and words[-1] in _FILLERS:
        words.pop()
    if not words:
        return "", ""
    last = words[-1]
    for filler in _FILLERS:
        if last not in _ROLES:
            last = last.removesuffix(filler)
    return " ".join(words[:-1]), _ROLES.get(last, "")


def _unwrapped(folder: pathlib.Path, *, inside_split: bool = False) -> pathlib.Path:
    """Goes down while a folder holds nothing but one folder of folders."""
    while True:
        names = _folders(folder)
        if len(names) != 1 or (_role(names[0])[1] and not inside_split):
            return folder
        inner = folder / names[0]
        if not _folders(inner) or any(True for _ in _images_in(inner)):
            return folder
        folder = inner


def _images_in(folder: pathlib.Path) -> Iterator[str]:
    for entry in os.scandir(folder):
        if _is_visible(entry.name) and pathlib.Path(entry.name).suffix.lower() in _IMAGE_SUFFIXES:
            yield entry.name


def _folders(folder: pathlib.Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if _is_visible(e.name) and e.is_dir())
    except OSError as error:
        raise DataError(
            f"The folder {folder} cannot be read: {error.strerror}; check its permissions."
        ) from error


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != _ARCHIVERS_FOLDER


def _classes(folder: pathlib.Path) -> tuple[str, ...]:
    names = _folders(folder)
    if not names:
        raise DataError(f"{folder} has no folders; expected one for each class, with its images.")
    return tuple(names)


def _check_same_classes(train: pathlib.Path, classes: Sequence[str], folder: pathlib.Path) -> None:
    own = set(_classes(folder))
    missing, unknown = sorted(set(classes) - own), sorted(own - set(classes))
    parts = []
    if unknown:
        parts.append(f"{folder} has {_named(unknown)}, which {train} has not")
    if missing:
        parts.append(f"{train} has {_named(missing)}, which {folder} has not")
    if parts:
        raise DataError(
            f"The splits have different classes: {'; '.join(parts)}. Expected the same class "
            "folders in each."
        )


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MAX_NAMES])
    more = len(names) - _MAX_NAMES
    return shown + (f" and {more} more" if more > 0 else "")
