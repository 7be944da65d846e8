"""Links object files to a shared library without assuming a system compiler.

`ld.lld` from the `ziglang` wheel links a kernel in about 10 ms and needs no target libc: what the
objects call (libm, TVM's runtime) is resolved when the device loads the library. A system compiler
is the fallback; a device may name a linker or compiler of the user's own.
"""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from cprune_tf.errors import UserError

_EMULATIONS = {"x86_64": "elf_x86_64", "aarch64": "aarch64linux"}
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
# Android 15 and some ARM servers use 16 KiB pages; harmless elsewhere.
_PAGE_SIZE = {"x86_64": 4096, "aarch64": 16384}


class LinkError(UserError, RuntimeError):
    """Objects could not be linked; says with what and why."""


@functools.cache
def linker_command(machine: str = "x86_64") -> tuple[str, ...]:
    """The command that links objects for a machine, up to its output.

    Args:
        machine: "x86_64" or "aarch64".

    Returns:
        The command's words; `-o OUTPUT OBJECTS...` follows.

    Raises:
        LinkError: For an unknown machine, or where neither ziglang nor a compiler is found.
    """
    if machine not in _EMULATIONS:
        raise LinkError(f"Cannot link for {machine!r}; expected one of {sorted(_EMULATIONS)}.")
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.origin is not None:
        zig = pathlib.Path(spec.origin).parent / "zig"
        if zig.exists():
            page = f"max-page-size={_PAGE_SIZE[machine]}"
            return (str(zig), "ld.lld", "-m", _EMULATIONS[machine], "-shared", "-z", page)
    for name in ("cc", "gcc", "clang"):
        compiler = shutil.which(name)
        if compiler is not None and machine == "x86_64":
            return (compiler, "-shared", "-fPIC")
    raise LinkError(
        f"No linker for {machine} found: neither the ziglang package nor a system compiler (cc, "
        "gcc, clang) is there. Run `pip install ziglang`."
    )


def link_shared(
    output: str, objects: Sequence[str], machine: str = "x86_64", command: str = ""
) -> None:
    """Links objects into a shared library.

    Args:
        output: The library's path.
        objects: Paths of object files.
        machine: "x86_64" or "aarch64".
        command: See devices.Device.linker.

    Raises:
        LinkError: With the linker's own words where it fails.
    """
    # Without libraries whoever links: a phone's process has another C library than the NDK's.
    own = [*shlex.split(command), "-shared", "-nostdlib"] if command else linker_command(machine)
    words = [*own, "-o", output, *objects]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LinkError(f"`{' '.join(words)}` cannot be run: {error}.") from error
    if done.returncode != 0:
        raise LinkError(f"`{' '.join(words)}` failed:\n{done.stderr.strip()}")


def linker_for(target: Any, command: str = "") -> Callable[..., None]:
    """What TVM's `export_library(path, fcompile=...)` wants, for a target.

    Args:
        target: A tvm.target.Target; its host counts, without a triple it is this machine's.
        command: See devices.Device.linker.
    """
    machine = _machine(target)

    def fcompile(output: str, objects: Sequence[str], **_: object) -> None:
        link_shared(output, objects, machine, command)

    return fcompile


def check_linker(target: Any, command: str) -> None:
    """Links an empty function with a user's own linker, before anything depends on it.

    Args:
        target: A tvm.target.Target; its host counts.
        command: See devices.Device.linker.

    Raises:
        LinkError: It does not link what is compiled for the target.
    """
    target = _host(target)
    machine = _machine(target)
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "empty.so")
        try:
            export_empty(str(path), target, linker_for(target, command))
            found = _elf_machine(path)
        except LinkError as error:
            raise LinkError(
                f"The linker {command!r} does not link libraries for {machine}; give one that "
                f"does, or leave it out to use ld.lld. {error}"
            ) from error
    expected = _ELF_MACHINES.get(machine)
    if found != expected:
        raise LinkError(
            f"The linker {command!r} wrote no library for {machine}: ELF machine {found}, expected "
            f"{expected}."
        )


def export_empty(path: str, target: Any, link: Callable[..., None]) -> None:
    """Writes a library with an empty function.

    Args:
        path: The library.
        target: A tvm.target.Target of kind llvm.
        link: What links it, as `export_library` calls it.
    """
    import tvm
    from tvm import tirx

    empty = tirx.PrimFunc([], tirx.Evaluate(0)).with_attr("global_symbol", "main")
    built = tirx.build(tvm.IRModule({"main": empty}), target=target)
    built.export_library(path, fcompile=link)


def _host(target: Any) -> Any:
    """The processor that a target's libraries are loaded by."""
    return target if target.host is None else target.host


def _machine(target: Any) -> str:
    triple = str(_host(target).attrs.get("mtriple", "") or "")
    return triple.split("-")[0] if triple else platform.machine()


def _elf_machine(path: pathlib.Path) -> int | None:
    """The number of the machine that an ELF file is for; None for anything else."""
    header = path.read_bytes()[:20] if path.is_file() else b""
    if not header.startswith(b"\x7fELF"):
        return None
    return int.from_bytes(header[18:20], "little")
