"""Estimates the cycles of a program with a model of a processor that is not at hand.

An emulator runs a kernel once and logs every straight piece of code that it executes. Stretches of
the executed code, from all parts of the run, go through LLVM's model of the processor (llvm-mca),
which says how many cycles each takes with out-of-order execution. So the numbers of executed
instructions are exact, and the cycles come from a sample.

The model assumes that all branches are predicted and all data is in the first-level cache. It does
not know addresses, so either no load waits for an earlier store or all loads do. Under the first
assumption, sums spilled to the stack look free; under the second, sums that were written look
expensive. The result is the geometric mean of both. Nothing is timed: a program costs the same on
any machine.
"""

from __future__ import annotations

import array
import dataclasses
import functools
import importlib.util
import json
import math
import pathlib
import platform
import random
import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cprune_tf.compiler.building import linker
from cprune_tf.devices.bundle import debian

_DRIVER = pathlib.Path(__file__).resolve().parent / "kernel_driver.c"
# The Debian release whose qemu disassembles translated code and whose LLVM models recent cores.
_SUITE = "trixie"
_LLVM = "llvm-19"
# The number of modelled stretches of a run, and their length in instructions. A lead-in before each
# stretch fills the pipeline and is not counted.
_NUM_STRETCHES = 5
_STRETCH = 800
_LEAD_IN = 200
# A program that executes more pieces is slow: good programs run tens of instructions in each piece.
_MAX_PIECES = 4_000_000
_TIMEOUT_SEC = 120.0

TensorSpec = tuple[str, Sequence[int]]


class ModelError(RuntimeError):
    """A program cannot be run or modelled, or a tool is missing; the message says why."""


@dataclasses.dataclass(frozen=True)
class Processor:
    """A processor to model.

    Attributes:
        name: LLVM's name of a core of which it has a model.
        machine: The machine type as in a target triple, e.g. "aarch64".
        target: The target that programs are compiled for, for `tvm.target.Target`.
    """

    name: str
    machine: str
    target: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Tools:
    """Debian's qemu and LLVM, unpacked.

    Attributes:
        root: The folder with the unpacked packages.
    """

    root: pathlib.Path

    def llvm(self, name: str) -> list[str]:
        """Returns the command that runs a tool of LLVM with the C library it was built for."""
        libraries = self.root / "usr" / "lib" / "x86_64-linux-gnu"
        loader = self.root / "usr" / "lib64" / "ld-linux-x86-64.so.2"
        tool = self.root / "usr" / "lib" / _LLVM / "bin" / name
        return [str(loader), "--library-path", str(libraries), str(tool)]

    def emulator(self, machine: str) -> str:
        """Returns the path of the qemu that runs programs of a machine type."""
        return str(self.root / "usr" / "bin" / f"qemu-{machine}")

    @functools.cached_property
    def llvm_version(self) -> str:
        """The version of LLVM, e.g. "19.1.7"."""
        match = re.search(r"LLVM version (\S+)", _output([*self.llvm("llvm-mca"), "--version"]))
        return match.group(1) if match else "unknown"


def fetch_tools(directory: pathlib.Path) -> Tools:
    """Fetches Debian's packages of the tools, unless the folder has them.

    Args:
        directory: The folder of the tools.

    Returns:
        The tools.

    Raises:
        ModelError: The tools do not run on this machine.
        FetchError: The tools cannot be fetched.
    """
    if platform.machine() != "x86_64":
        raise ModelError(f"The model's tools run on x86_64, not on {platform.machine()}.")
    root, stamp = directory / "debian", directory / "fetched"
    if not stamp.exists():
        directory.mkdir(parents=True, exist_ok=True)
        debian.unpack((_LLVM,), root, architecture="amd64", suite=_SUITE)
        debian.unpack(("qemu-user",), root, architecture="amd64", suite=_SUITE, dependencies=False)
        stamp.touch()
    return Tools(root)


@dataclasses.dataclass(frozen=True)
class _Run:
    """The code that one run executed.

    Attributes:
        pieces: The first and last address of each straight piece of code.
        order: The numbers of the pieces in the order of execution, int32 [executed pieces].
    """

    pieces: list[tuple[int, int]]
    order: np.ndarray


class MachineModel:
    """Models programs on one processor.

    Args:
        processor: The processor to model.
        tools: The emulator and LLVM.
        directory: The folder for compiled files; made if missing.

    Raises:
        ModelError: There is no compiler.
    """

    def __init__(self, processor: Processor, tools: Tools, directory: pathlib.Path) -> None:
        self.processor = processor
        self._tools = tools
        directory.mkdir(parents=True, exist_ok=True)
        self._driver = directory / f"kernel_driver_{processor.machine}.o"
        flags = "-O1 -c -ffreestanding -fno-builtin -fno-stack-protector -fno-sanitize=all"
        triple = f"{processor.machine}-linux-musl"
        command = [_zig(), "cc", "-target", triple, *flags.split(), "-o", str(self._driver)]
        _output([*command, str(_DRIVER)])

    @property
    def linker(self) -> str:
        """The command that links a kernel and the driver to a program, as for Device.linker."""
        words = [
            word for word in linker.linker_command(self.processor.machine) if word != "-shared"
        ]
        link = shlex.join([*words, "-static", "--unresolved-symbols=ignore-all", str(self._driver)])
        # It is called with "-shared -nostdlib -o OUTPUT OBJECTS...".
        return shlex.join(["sh", "-c", f'shift; exec {link} "$@"'])

    def cycles(self, program: pathlib.Path, arguments: Iterable[TensorSpec]) -> float:
        """Models the cycles of one call of a kernel.

        Args:
            program: The program that `linker` linked.
            arguments: (dtype, shape) of each of the kernel's tensors.

        Returns:
            The modelled cycles.

        Raises:
            ModelError: The program fails, executes too much code, or cannot be modelled.
        """
        run = self._run(program, arguments)
        code = self._code(program)
        addresses = sorted(code)
        texts = []
        for first, last in run.pieces:
            start, stop = np.searchsorted(addresses, (first, last + 1))
            texts.append([code[address] for address in addresses[start:stop]])
        lengths = np.array([len(text) for text in texts])
        stretches = _stretches(lengths[run.order])
        lead_ins, wholes, counted = [], [], 0
        for begin, middle, end in stretches:
            lead_in = [line for piece in run.order[begin:middle] for line in texts[piece]]
            stretch = [line for piece in run.order[middle:end] for line in texts[piece]]
            lead_ins.append(lead_in)
            wholes.append(lead_in + stretch)
            counted += len(stretch)
        executed = float(lengths[run.order].sum())
        bounds = []
        for independent in (True, False):
            cycles = self._modelled([*lead_ins, *wholes], independent)
            stretch_cycles = sum(cycles[len(lead_ins) :]) - sum(cycles[: len(lead_ins)])
            bounds.append(executed * stretch_cycles / counted)
        return math.sqrt(bounds[0] * bounds[1])

    def _run(self, program: pathlib.Path, arguments: Iterable[TensorSpec]) -> _Run:
        """Runs a program and reads qemu's log."""
        words = [
            ",".join((re.sub(r"^(.)\D*", r"\1", dtype), *map(str, shape)))
            for dtype, shape in arguments
        ]
        emulator = [self._tools.emulator(self.processor.machine), "-cpu", "max"]
        log = ["-d", "in_asm,exec,nochain", "-D", "/dev/stdout"]
        with subprocess.Popen(
            [*emulator, *log, str(program), *words], stdout=subprocess.PIPE, bufsize=1 << 20
        ) as process:
            assert process.stdout is not None
            try:
                run = _read_log(process.stdout)
            except ModelError:
                process.kill()
                raise
        if process.returncode != 0:
            raise ModelError(f"The kernel failed in the emulator ({process.returncode}).")
        return run

    def _code(self, program: pathlib.Path) -> dict[int, str]:
        """Returns the instruction at each address, in the form that llvm-mca reads."""
        command = [*self._tools.llvm("llvm-objdump"), "-d", "--no-show-raw-insn", str(program)]
        code = {}
        for address, line in re.findall(r"^\s*([0-9a-f]+):\s+(.*)$", _output(command), re.M):
            text = re.split(r"\s(?:#|//)\s", line)[0]
            # The targets of branches do not matter, and an absolute address may be out of reach.
            code[int(address, 16)] = re.sub(r"(?:0x)?[0-9a-f]+ <[^>]*>", ".L0", text)
        return code

    def _modelled(self, texts: Sequence[Sequence[str]], independent: bool) -> list[int]:
        """Models sequences of instructions, each on its own.

        Args:
            texts: The instructions of each sequence.
            independent: Whether no load waits for an earlier store; otherwise all loads do.

        Returns:
            The cycles of each sequence.
        """
        lines: list[str] = []
        for number, text in enumerate(texts):
            lines += [f"# LLVM-MCA-BEGIN {number}", *text, f"# LLVM-MCA-END {number}"]
        options = ["-iterations=1", "-json", "-skip-unsupported-instructions=any"]
        views = ["-instruction-info=false", "-resource-pressure=false"]
        processor = [f"-mtriple={self.processor.machine}", f"-mcpu={self.processor.name}"]
        memory = f"-noalias={str(independent).lower()}"
        command = [*self._tools.llvm("llvm-mca"), *processor, memory, *options, *views]
        regions = json.loads(_output(command, "\n".join([*lines, ""])))["CodeRegions"]
        by_name = {region["Name"]: region["SummaryView"]["TotalCycles"] for region in regions}
        return [int(by_name.get(str(number), 0)) for number in range(len(texts))]


def _read_log(lines: Iterable[bytes]) -> _Run:
    """Reads the executed pieces of code from a log of qemu, without those of the driver.

    Args:
        lines: The log, which has the instructions of each translated piece, and a line for each
            execution of a piece.

    Returns:
        The pieces and the order of their execution.

    Raises:
        ModelError: The log contains no kernel, or is too long.
    """
    numbers: dict[bytes, int] = {}
    pieces: list[tuple[int, int]] = []
    order = array.array("i")
    last = b""
    for line in lines:
        if line.startswith(b"Trace"):
            if line.endswith(b" driver\n"):
                continue
            start = line.split(b"/", 2)[1]
            number = numbers.get(start)
            if number is None:
                number = numbers[start] = len(pieces)
                pieces.append((int(start, 16), int(last, 16)))
            order.append(number)
            if len(order) > _MAX_PIECES:
                raise ModelError(f"The kernel executes more than {_MAX_PIECES} pieces of code.")
        # The bytes of a long instruction continue in a line without text.
        elif line.startswith(b"0x") and len(line.split(b"  ", 2)) == 3:
            last = line.split(b":", 1)[0]
    if not order:
        raise ModelError("The emulator's log shows no kernel.")
    return _Run(pieces, np.array(order))


def _stretches(lengths: np.ndarray) -> list[tuple[int, int, int]]:
    """Chooses the stretches to model.

    Args:
        lengths: Number of instructions of each executed piece, [executed pieces].

    Returns:
        For each stretch, the positions in the order of execution at which its lead-in begins, the
        stretch begins, and the stretch ends.
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1])
    if total <= _NUM_STRETCHES * (_LEAD_IN + _STRETCH):
        return [(0, 0, len(lengths))]
    rng = random.Random(0)
    stretches = []
    for number in range(_NUM_STRETCHES):
        # At a random place in each part, since fixed places could hit the same part of every loop.
        position = int((total - _LEAD_IN - _STRETCH) * (number + rng.random()) / _NUM_STRETCHES)
        places = (position, position + _LEAD_IN, position + _LEAD_IN + _STRETCH)
        begin, middle, end = (int(np.searchsorted(ends, place, "right")) for place in places)
        middle = max(middle, begin + 1)
        stretches.append((begin, middle, max(end, middle + 1)))
    return [(begin, middle, min(end, len(lengths))) for begin, middle, end in stretches]


def _zig() -> str:
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise ModelError("The ziglang package is not installed; run `pip install ziglang`.")
    return str(pathlib.Path(spec.origin).parent / "zig")


def _output(command: Sequence[str], text: str = "") -> str:
    """Runs a tool and returns its output.

    Raises:
        ModelError: The tool fails; the message quotes its error.
    """
    try:
        result = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_SEC, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"`{command[0]} ...` cannot be run: {error}.") from error
    if result.returncode != 0:
        reason = [line for line in result.stderr.splitlines() if "error" in line]
        reason = reason or [result.stderr]
        raise ModelError(f"`{' '.join(command[-6:])}` failed: {reason[0].strip()}")
    return result.stdout
