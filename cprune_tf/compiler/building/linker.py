"""Links object files to a shared library without assuming a system compiler.

`ld.lld` from the `ziglang` wheel links a kernel in about 10 ms and needs no target libc: what the
objects call (libm, TVM's runtime) is resolved when the device loads the library. If the wheel is
missing, a system compiler links. A device may also name the user's own linker or compiler.
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
# Android 15 and some ARM servers use 16 KiB pages; libraries aligned to them load elsewhere too.
_PAGE_SIZE = {"x86_64": 4096, "aarch64": 16384}


class LinkError(UserError, RuntimeError):
    """Objects could not be linked; the message says with which command and why."""


@functools.cache
def linker_command(machine: str = "x86_64") -> tuple[str, ...]:
    """Finds the command that links objects for a machine.

    Args:
        machine: The kind of processor, "x86_64" or "aarch64".

    Returns:
        The command's words, to which `-o OUTPUT OBJECTS...` has to be appended.

    Raises:
        LinkError: If the machine is unknown, or neither ziglang nor a compiler is installed.
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
        f"No linker for {machine} was found: neither the ziglang package nor a system compiler "
        "(cc, gcc, clang) is installed. Run `pip install ziglang`."
    )


def link_shared(
    output: str, objects: Sequence[str], machine: str = "x86_64", command: str = ""
) -> None:
    """Links objects into a shared library.

    Args:
        output: The path of the library.
        objects: The paths of the object files.
        machine: The kind of processor, "x86_64" or "aarch64".
        command: The command line of the user's linker, or ""; see devices.Device.linker.

    Raises:
        LinkError: If the linker fails; the message contains what the linker printed.
    """
    # The user's linker gets -nostdlib too, since a phone's process may have another C library than
    # the linker's NDK.
    linker = [*shlex.split(command), "-shared", "-nostdlib"] if command else linker_command(machine)
    words = [*linker, "-o", output, *objects]
    try:
        process = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LinkError(f"`{' '.join(words)}` cannot be run: {error}.") from error
    if process.returncode != 0:
        raise LinkError(f"`{' '.join(words)}` failed:\n{process.stderr.strip()}")


def linker_for(target: Any, command: str = "") -> Callable[..., None]:
    """Makes the function that TVM's `export_library(path, fcompile=...)` links with.

    Args:
        target: A tvm.target.Target. Its host is linked for; without a triple that is this machine.
        command: The command line of the user's linker, or ""; see devices.Device.linker.

    Returns:
        A function of the library's path and the object files' paths.
    """
    machine = _machine(target)

    def fcompile(output: str, objects: Sequence[str], **_: object) -> None:
        link_shared(output, objects, machine, command)

    return fcompile


def check_linker(target: Any, command: str) -> None:
    """Tries the user's linker on an empty function, before anything depends on it.

    Args:
        target: A tvm.target.Target, whose host is linked for.
        command: The command line of the user's linker; see devices.Device.linker.

    Raises:
        LinkError: If the linker does not link what is compiled for the target.
    """
    target = _host(target)
    machine = _machine(target)
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "empty.so")
        try:
            export_empty(str(path), target, linker_for(target, command))
            elf_machine = _elf_machine(path)
        except LinkError as error:
            raise LinkError(
                f"The linker {command!r} does not link libraries for {machine}. Name one that "
                f"does, or name none to use ld.lld. {error}"
            ) from error
    expected = _ELF_MACHINES.get(machine)
    if elf_machine != expected:
        raise LinkError(
            f"The linker {command!r} wrote no library for {machine}: the file's ELF machine is "
            f"{elf_machine}, expected {expected}. Name a linker for {machine}, or name none to use "
            "ld.lld."
        )


def export_empty(path: str, target: Any, link: Callable[..., None]) -> None:
    """Writes a library with an empty function.

    Args:
        path: The library to write.
        target: A tvm.target.Target of kind llvm.
        link: The function that links the library, as for `export_library(fcompile=...)`.
    """
    import tvm
    from tvm import tirx

    empty = tirx.PrimFunc([], tirx.Evaluate(0)).with_attr("global_symbol", "main")
    built = tirx.build(tvm.IRModule({"main": empty}), target=target)
    built.export_library(path, fcompile=link)


def _host(target: Any) -> Any:
    """The target of the processor that loads a target's libraries."""
    return target if target.host is None else target.host


def _machine(target: Any) -> str:
    triple = str(_host(target).attrs.get("mtriple", "") or "")
    return triple.split("-")[0] if triple else platform.machine()


def _elf_machine(path: pathlib.Path) -> int | None:
    """The machine number in an ELF file's header; None if the file is no ELF file."""
    header = path.read_bytes()[:20] if path.is_file() else b""
    if not header.startswith(b"\x7fELF"):
        return None
    return int.from_bytes(header[18:20], "little")
