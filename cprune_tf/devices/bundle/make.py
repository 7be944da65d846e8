"""Makes the bundle from Debian's arm64 packages and the aarch64 wheels of PyPI."""

from __future__ import annotations

import compileall
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import py_compile
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable

from cprune_tf.devices.agent.storage import sha256_of
from cprune_tf.devices.bundle import debian
from cprune_tf.errors import UserError
from cprune_tf.storage import files

_DESCRIPTION = "bundle.json"
_SUITE = "bookworm"
_PYTHON = "3.11"
_DEBIAN_PACKAGES = ("python3.11", "libstdc++6", "libgomp1")
# Fetched in this machine's versions: a library compiled by one TVM does not run in another.
_WHEELS = (
    "apache-tvm",
    "apache-tvm-ffi",
    "ai-edge-litert",
    "numpy",
    "ml_dtypes",
    "typing_extensions",
    "psutil",
)
_PLATFORMS = tuple(f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 24, 17))
_LIBRARIES = """
    ld-linux-aarch64.so.1 libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libutil.so.1
    libgcc_s.so.1 libresolv.so.2 libstdc++.so.6 libgomp.so.1 libz.so.1 libexpat.so.1 libffi.so.8
    libbz2.so.1.0 liblzma.so.5 libcrypto.so.3 libssl.so.3 libuuid.so.1
"""
_UNUSED_PYTHON = (
    "test",
    "idlelib",
    "tkinter",
    "lib2to3",
    "ensurepip",
    "pydoc_data",
    "unittest",
    "config-3.11*",
    "__pycache__",
)
_UNUSED_WHEEL_PARTS = (
    "tvm/lib/libtvm_compiler.so",
    "tvm/lib/libtvm_runtime_cuda.so",
    "tvm/src",
    "tvm/3rdparty",
    "tvm/include",
    "tvm/web",
    "ai_edge_litert/libLiteRtWebGpuAccelerator.so",
    "bin",
)
# Starting through the bundle's loader keeps the device's own C library out.
_LAUNCHER = """\
#!/bin/sh
D=${0%/*}; case $D in /*) ;; *) D=$PWD/$D;; esac
export PYTHONHOME=$D/usr PYTHONNOUSERSITE=1 HOME=${HOME:-$D}
export PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$D/site
L=$D/lib
exec $CPRUNE_TF_EMULATOR $L/ld-linux-aarch64.so.1 --library-path $L $D/usr/bin/python3.11 "$@"
"""


class BundleError(UserError, RuntimeError):
    """The bundle is missing, damaged or could not be made; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle on this machine.

    Attributes:
        path: The `.tar.gz`.
        sha256: The archive's checksum, in hexadecimal digits.
        abi: The machine type it runs on: "aarch64".
        runtimes: The version of each Python package in the bundle.
    """

    path: pathlib.Path
    sha256: str
    abi: str
    runtimes: dict[str, str]

    @property
    def version(self) -> str:
        """The start of the checksum, which tells bundles on a device apart."""
        return self.sha256[:12]

    def is_current(self) -> bool:
        """Whether its TVM has this machine's version; other versions cannot run our libraries."""
        return self.runtimes["apache-tvm"] == importlib.metadata.version("apache-tvm")


def default_directory() -> pathlib.Path:
    """Returns the folder of bundles: CPRUNE_TF_BUNDLES, or one in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(os.environ.get("CPRUNE_TF_BUNDLES") or f"{cache}/cprune_tf/bundles")


def find_bundle(directory: pathlib.Path | None = None) -> Bundle:
    """Finds the bundle that was made last and verifies its checksum.

    Args:
        directory: The folder it was made in; None for default_directory().

    Returns:
        The bundle.

    Raises:
        BundleError: There is no bundle, or it is damaged.
    """
    directory = directory or default_directory()
    description = directory / _DESCRIPTION
    if not description.is_file():
        raise BundleError(f"There is no bundle in {directory}; run `python tools/make_bundle.py`.")
    try:
        values = json.loads(description.read_text(encoding="utf-8"))
        bundle = Bundle(
            directory / values["file"], values["sha256"], values["abi"], values["runtimes"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{description} is damaged ({type(error).__name__}: {error}); "
            "run `python tools/make_bundle.py --overwrite`."
        ) from error
    if not bundle.path.is_file() or sha256_of(bundle.path) != bundle.sha256:
        raise BundleError(
            f"The bundle {bundle.path} is missing or damaged (its checksum is not "
            f"{bundle.sha256}); run `python tools/make_bundle.py --overwrite`."
        )
    return bundle


def make_bundle(
    directory: pathlib.Path | None = None, note: Callable[[str], None] = lambda text: None
) -> Bundle:
    """Makes the aarch64 bundle; older bundles in the folder are removed at the end.

    Args:
        directory: The folder to make it in; None for default_directory().
        note: Called with a short text before each step.

    Returns:
        The bundle.

    Raises:
        FetchError: Packages cannot be fetched.
        BundleError: A package lacks what the bundle needs.
    """
    directory = directory or default_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".make-", dir=directory) as temporary:
        work = pathlib.Path(temporary)
        note("fetching Debian's arm64 packages")
        debian.unpack(_DEBIAN_PACKAGES, work / "root", architecture="arm64", suite=_SUITE)
        note("fetching aarch64 wheels")
        runtimes = _install_wheels(work / "bundle" / "site")
        note("packing")
        _copy_python(work / "root", work / "bundle")
        _compile_byte_code(work / "bundle")
        launcher = work / "bundle" / "py"
        launcher.write_text(_LAUNCHER)
        launcher.chmod(0o755)
        packed = work / "bundle.tar.gz"
        with tarfile.open(packed, "w:gz", compresslevel=6) as archive:
            archive.add(work / "bundle", arcname=".")
        sha256 = sha256_of(packed)
        path = directory / f"cprune_tf-bundle-aarch64-{sha256[:12]}.tar.gz"
        with files.replacing(path) as temporary_path:
            packed.rename(temporary_path)
        values = {"file": path.name, "sha256": sha256, "abi": "aarch64", "runtimes": runtimes}
        files.write_json(directory / _DESCRIPTION, values)
    for old in directory.glob("cprune_tf-bundle-*.tar.gz"):
        if old != path:
            old.unlink()
    return Bundle(path, sha256, "aarch64", runtimes)


def _install_wheels(site: pathlib.Path) -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _WHEELS}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--target", str(site), "--python-version", _PYTHON, "--implementation", "cp"]
    command += [f"--platform={platform}" for platform in _PLATFORMS]
    command += ["--only-binary=:all:", "--no-deps", "--no-compile"]
    command += [f"{name}=={version}" for name, version in versions.items()]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise debian.FetchError(f"pip could not fetch the wheels: {result.stderr.strip()[-400:]}")
    for part in _UNUSED_WHEEL_PARTS:
        path = site / part
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for tests in site.glob("numpy/**/tests"):
        shutil.rmtree(tests)
    return versions


def _copy_python(root: pathlib.Path, bundle: pathlib.Path) -> None:
    (bundle / "usr" / "bin").mkdir(parents=True)
    (bundle / "lib").mkdir()
    shutil.copy2(root / "usr/bin/python3.11", bundle / "usr/bin/python3.11")
    shutil.copytree(
        root / "usr/lib/python3.11",
        bundle / "usr/lib/python3.11",
        symlinks=True,
        ignore=shutil.ignore_patterns(*_UNUSED_PYTHON),
    )
    for name in _LIBRARIES.split():
        library = next((path for path in sorted(root.rglob(name)) if path.is_file()), None)
        if library is None:
            raise BundleError(f"Debian's arm64 packages contain no library {name}.")
        shutil.copy2(library.resolve(), bundle / "lib" / name)


def _compile_byte_code(bundle: pathlib.Path) -> None:
    """Compiles the bundle's modules, which halves the time of the first start on the device."""
    # Only the bundle's own Python version can use the byte code.
    if sys.version_info[:2] == (3, 11):
        for folder in ("usr/lib/python3.11", "site"):
            compileall.compile_dir(
                bundle / folder,
                quiet=2,
                stripdir=bundle,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
