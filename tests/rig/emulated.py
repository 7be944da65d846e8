"""An aarch64 board and an Android phone without hardware, from Debian and PyPI packages.

    python -m tests.rig.emulated        makes the rig (once; about half a minute) and says where

Nothing is installed on this machine. The board is the project's own bundle under qemu-user; the
phone is Debian's adbd in a root whose whole userland is aarch64. adbd is an unauthenticated shell:
it only ever runs in a network namespace of its own.

The folder is CPRUNE_TF_RIG, or one in the user's cache. Latencies under emulation mean nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Iterator

from cprune_tf.devices import bundle
from cprune_tf.devices.bundle import debian

_HERE = pathlib.Path(__file__).resolve().parent
_HOST_SUITE = "trixie"  # its qemu describes the emulated processor in /proc/cpuinfo
_TOOLS = """
    awk cat chmod cp date dd df du env false find grep head id kill ls mkdir mv nice nproc printf
    ps pwd readlink rm sed setsid sha256sum sleep sort stat tail tar test touch tr true uname wc
"""
_PROPERTIES = {
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.product.model": "emulated",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
}


class RigError(RuntimeError):
    """The rig can't be made or run on this machine; says why."""


@dataclasses.dataclass(frozen=True)
class Rig:
    """Where everything is.

    Attributes:
        root: The rig's folder.
    """

    root: pathlib.Path

    @property
    def bundles(self) -> pathlib.Path:
        return self.root / "bundles"

    @property
    def board_python(self) -> pathlib.Path:
        """aarch64 Python with TVM's runtime and LiteRT; start it with `environment`."""
        return self.root / "board" / "py"

    @property
    def qemu(self) -> pathlib.Path:
        return self.root / "host" / "usr" / "bin" / "qemu-aarch64"

    @property
    def adb(self) -> pathlib.Path:
        return self.root / "bin" / "adb"

    @property
    def phone(self) -> pathlib.Path:
        """Starts the phone's adbd on ADBD_PORT; only inside `unshare -Urn`."""
        return self.root / "bin" / "phone"

    def environment(self, cpu: str = "cortex-a76") -> dict[str, str]:
        """What a process on the emulated board is started with."""
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        return {  # byte code is kept: compiling it anew takes half of an emulated start
            **inherited,
            "CPRUNE_TF_EMULATOR": f"{self.qemu} -cpu {cpu} -0 {self.board_python}",
            "PYTHONPATH": str(_HERE.parent.parent),
        }


def rig() -> Rig:
    """The rig, made if it is not there or was made by another recipe.

    Returns:
        The rig.

    Raises:
        RigError: This machine can't run it, or packages can't be fetched.
    """
    if platform.machine() != "x86_64":
        raise RigError(f"The emulated rig runs on x86_64, not on {platform.machine()}.")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = pathlib.Path(os.environ.get("CPRUNE_TF_RIG") or f"{cache}/cprune_tf/rig")
    with _locked(root.with_name(f"{root.name}.lock")):
        stamp = root / "recipe"
        if not stamp.is_file() or stamp.read_text() != _recipe():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
            try:
                _make(Rig(root))
            except (bundle.FetchError, bundle.BundleError) as error:
                raise RigError(f"The emulated rig can't be made here: {error}") from error
            stamp.write_text(_recipe())
    return Rig(root)


def _recipe() -> str:
    sources = (
        __file__,
        bundle.make.__file__,
        debian.__file__,
        *sorted(_HERE.glob("*.sh")),
        _HERE / "without_vsock.py",
    )
    return hashlib.sha256(b"".join(pathlib.Path(p).read_bytes() for p in sources)).hexdigest()


def _make(made: Rig) -> None:
    packed = bundle.make_bundle(made.bundles)
    with tarfile.open(packed.path) as archive:
        archive.extractall(made.root / "board", filter="tar")
    host = made.root / "host"
    debian.unpack(("adb", "adbd"), host, architecture="amd64", suite=_HOST_SUITE)
    debian.unpack(("qemu-user",), host, architecture="amd64", suite=_HOST_SUITE, dependencies=False)
    for path in host.glob("usr/bin/qemu-*"):
        if path != made.qemu:
            path.unlink()
    (made.root / "bin").mkdir()
    for name in ("adb", "phone"):
        shutil.copy2(_HERE / f"{name}.sh", made.root / "bin" / name)
    shutil.copy2(_HERE / "without_vsock.py", made.root / "bin")
    _make_phone(made)


def _make_phone(made: Rig) -> None:
    """The aarch64 userland that adbd serves."""
    userland = made.root / "userland"
    debian.unpack(("busybox-static", "mksh"), userland, architecture="arm64", suite="bookworm")
    phone = made.root / "phone"
    for name in ("etc", "proc", "dev", "sys", "tmp", "data/local/tmp", "system/bin", "host"):
        (phone / name).mkdir(parents=True)
    tools = phone / "system" / "bin"
    shutil.copy2(userland / "bin" / "busybox", tools / "busybox")
    shutil.copy2(userland / "bin" / "lksh", tools / "sh")  # Debian's static build of mksh
    for name in _TOOLS.split():
        (tools / name).symlink_to("busybox")
    (phone / "bin").symlink_to("system/bin")
    lines = [f"{name}={value}\n" for name, value in _PROPERTIES.items()]
    (phone / "system" / "build.prop").write_text("".join(lines))
    shutil.copy2(_HERE / "getprop.sh", tools / "getprop")
    shutil.rmtree(userland)


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    made = rig()
    script = "import platform, tvm; print(platform.machine(), 'tvm', tvm.__version__)"
    subprocess.run(
        [made.board_python, "-c", script],
        env={**made.environment(), "TVM_USE_RUNTIME_LIB": "1"},
        check=True,
    )
    print(made.root)


if __name__ == "__main__":
    main()
