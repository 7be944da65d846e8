"""Unpacks Debian packages into a folder: apt fetches and verifies them, nothing is installed."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Sequence

from cprune_tf.errors import UserError

_KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SOURCES = pathlib.Path("/etc/apt")
_DEFAULT_MIRROR = "http://deb.debian.org/debian"
_TIMEOUT_SEC = 600.0


class FetchError(UserError, RuntimeError):
    """Packages could not be fetched; the message says which, from where and why."""


def unpack(
    packages: Sequence[str],
    directory: pathlib.Path,
    *,
    architecture: str,
    suite: str,
    dependencies: bool = True,
) -> None:
    """Downloads Debian packages and unpacks them into a folder.

    Args:
        packages: Names of the packages.
        directory: The folder that becomes the root of their files; made if missing.
        architecture: Debian's name of the architecture, e.g. "arm64"; need not be this machine's.
        suite: Debian's name of the release, e.g. "bookworm".
        dependencies: Whether to unpack everything the packages depend on as well.

    Raises:
        FetchError: apt or the Debian keyring is missing, or apt failed; the message says why.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FetchError(f"{tool} is not installed; run this on Debian or Ubuntu.")
    if not _KEYRING.is_file():
        raise FetchError(
            f"There is no {_KEYRING} to verify packages with; run "
            "`sudo apt-get install debian-archive-keyring`."
        )
    apt = directory.parent / f".apt-{architecture}-{suite}"
    try:
        config = _configure(apt, architecture, suite)
        _run(["apt-get", "-q", "update"], config, apt)
        if dependencies:
            _run(["apt-get", "-qq", "install", "-y", "--download-only", *packages], config, apt)
        else:
            _run(["apt-get", "-qq", "download", *packages], config, apt / "cache" / "archives")
        directory.mkdir(parents=True, exist_ok=True)
        for archive in sorted((apt / "cache" / "archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(archive), str(directory)], config, apt)
    finally:
        shutil.rmtree(apt, ignore_errors=True)


def _configure(apt: pathlib.Path, architecture: str, suite: str) -> pathlib.Path:
    """Writes a configuration of apt that leaves the machine's own apt state alone."""
    for part in ("state/lists/partial", "cache/archives/partial", "parts"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    (apt / "state" / "status").touch()
    sources = apt / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {suite} main\n")
    config = apt / "apt.conf"
    settings = {
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "state" / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": apt / "parts",
        "APT::Architecture": architecture,
        "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
    }
    lines = [f'{name} "{value}";' for name, value in settings.items()]
    config.write_text("\n".join([*lines, f'APT::Architectures {{ "{architecture}"; }};', ""]))
    return config


def _mirror() -> str:
    """Returns the Debian mirror of this machine's apt sources, else Debian's main mirror."""
    source_lists = [_SOURCES / "sources.list", *sorted((_SOURCES / "sources.list.d").glob("*"))]
    for path in source_lists:
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            for url in re.findall(r"^(?:URIs:|deb(?: \[[^]]*\])?)\s+(\S+)", text, re.MULTILINE):
                if url.rstrip("/").endswith("/debian"):
                    return str(url)
    return _DEFAULT_MIRROR


def _run(command: Sequence[str], config: pathlib.Path, directory: pathlib.Path) -> None:
    result = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SEC,
        check=False,
    )
    if result.returncode != 0:
        reason = (result.stderr or result.stdout).strip().splitlines()[-3:]
        raise FetchError(f"`{' '.join(command[:4])} ...` failed: {' / '.join(reason)}")
