"""A folder like a fresh environment's site-packages: some distributions and what they require."""

from __future__ import annotations

import importlib.metadata
import pathlib

from packaging.requirements import Requirement


def bare_site(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """Links the installed files of some distributions and of all they require into a folder.

    Args:
        folder: To be made.
        *names: Of the distributions, as pip takes them.

    Returns:
        The folder, for `sys.path` of an interpreter started with `-I -S`.
    """
    folder.mkdir(parents=True)
    wanted, done = list(names), set()
    while wanted:
        name = wanted.pop().lower().replace("_", "-")
        if name in done:
            continue
        done.add(name)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
        for file in importlib.metadata.files(name) or []:
            top, installed = file.parts[0], pathlib.Path(str(file.locate()))
            link = folder / top
            if top not in ("..", "__pycache__") and not link.exists():
                link.symlink_to([installed, *installed.parents][len(file.parts) - 1])
    return folder
