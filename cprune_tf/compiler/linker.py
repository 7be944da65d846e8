"""Links object files to a shared library without assuming a system compiler.

`ld.lld` from the `ziglang` wheel links a kernel in about 10 ms and needs no target libc: what the
objects call (libm, TVM's runtime) is resolved when the device loads the library. A system compiler
is the fallback.
"""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

_EMULATIONS = {"x86_64": "elf_x86_64", "aarch64": "aarch64linux"}
# Android 15 and some ARM servers use 16 KiB pages; harmless elsewhere.
_PAGE_SIZE = {"x86_64": 4096, "aarch64": 16384}


class LinkError(RuntimeError):
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


def link_shared(output: str, objects: Sequence[str], machine: str = "x86_64") -> None:
    """Links objects into a shared library.

    Args:
        output: The library's path.
        objects: Paths of object files.
        machine: "x86_64" or "aarch64".

    Raises:
        LinkError: With the linker's own words where it fails.
    """
    command = [*linker_command(machine), "-o", output, *objects]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LinkError(f"`{' '.join(command)}` failed:\n{done.stderr.strip()}")


def linker_for(target: Any) -> Callable[..., None]:
    """What TVM's `export_library(path, fcompile=...)` wants, for a target.

    Args:
        target: A tvm.target.Target of kind llvm; without a triple it is this machine's.
    """
    triple = str(target.attrs.get("mtriple", "") or "")
    machine = triple.split("-")[0] if triple else platform.machine()

    def fcompile(output: str, objects: Sequence[str], **_: object) -> None:
        link_shared(output, objects, machine)

    return fcompile
