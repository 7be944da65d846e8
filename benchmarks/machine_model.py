"""What a program costs by a model of a processor, for processors that are not at hand.

An emulator runs a kernel once and logs every straight piece of code that it executes. Stretches of
what it executed, from all over the run, go through LLVM's model of the processor (llvm-mca), which
says how many cycles each takes, out of order. So the counts are exact and the cycles a sample.

The model is of a core whose branches are foretold and whose data is in the first cache. It knows no
addresses, so that it either lets no load wait for an earlier store or all of them: sums that were
spilled to the stack look free by the first, sums that were written look costly by the second. What
is given is the geometric mean of both. Nothing is timed: a program costs the same on any machine.
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
# Its qemu disassembles what it translates, and its LLVM has models of recent cores.
_SUITE = "trixie"
_LLVM = "llvm-19"
# Stretches of a run that are modelled, in instructions: so many of them, each after a lead-in that
# fills the pipeline and is not counted.
_NUM_STRETCHES = 5
_STRETCH = 800
_LEAD_IN = 200
# A program that executes more pieces is hopeless: good ones take tens of instructions in each.
_MAX_PIECES = 4_000_000
_TIMEOUT_SEC = 120.0

TensorSpec = tuple[str, Sequence[int]]


class ModelError(RuntimeError):
    """A program cannot be run or modelled, or a tool is missing; says why."""


@dataclasses.dataclass(frozen=True)
class Processor:
    """What is modelled.

    Attributes:
        name: LLVM's, of a core that it has a model of.
        machine: As in a target's triple.
        target: What programs are compiled for.
    """

    name: str
    machine: str
    target: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Tools:
    """Debian's qemu and LLVM, unpacked.

    Attributes:
        root: Where.
    """

    root: pathlib.Path

    def llvm(self, name: str) -> list[str]:
        """The command that runs one of LLVM's tools with the C library that it was built for."""
        libraries = self.root / "usr" / "lib" / "x86_64-linux-gnu"
        loader = self.root / "usr" / "lib64" / "ld-linux-x86-64.so.2"
        tool = self.root / "usr" / "lib" / _LLVM / "bin" / name
        return [str(loader), "--library-path", str(libraries), str(tool)]

    def emulator(self, machine: str) -> str:
        """Qemu for programs of a machine."""
        return str(self.root / "usr" / "bin" / f"qemu-{machine}")

    @functools.cached_property
    def llvm_version(self) -> str:
        """E.g. "19.1.7"."""
        found = re.search(r"LLVM version (\S+)", _output([*self.llvm("llvm-mca"), "--version"]))
        return found.group(1) if found else "unknown"


def fetch_tools(directory: pathlib.Path) -> Tools:
    """Debian's packages, fetched once.

    Args:
        directory: Where they are kept.

    Returns:
        The tools.

    Raises:
        ModelError: They do not run on this machine.
        FetchError: They cannot be fetched.
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
    """What one run executed.

    Attributes:
        pieces: First and last address of each straight piece of code.
        order: Numbers of the pieces, in the order they were executed.
    """

    pieces: list[tuple[int, int]]
    order: np.ndarray


class MachineModel:
    """Models programs on one processor.

    Args:
        processor: Which.
        tools: What to do it with.
        directory: For what has to be compiled; made if missing.

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
        """What links a kernel and the driver to a program; as devices.Device.linker."""
        words = [
            word for word in linker.linker_command(self.processor.machine) if word != "-shared"
        ]
        link = shlex.join([*words, "-static", "--unresolved-symbols=ignore-all", str(self._driver)])
        # It is called with "-shared -nostdlib -o OUTPUT OBJECTS...".
        return shlex.join(["sh", "-c", f'shift; exec {link} "$@"'])

    def cycles(self, program: pathlib.Path, arguments: Iterable[TensorSpec]) -> float:
        """The cycles of one call of a kernel.

        Args:
            program: What `linker` linked.
            arguments: (dtype, shape) of each of its tensors.

        Returns:
            Modelled cycles.

        Raises:
            ModelError: The program fails, is too slow to look at, or cannot be modelled.
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
            taken = sum(cycles[len(lead_ins) :]) - sum(cycles[: len(lead_ins)])
            bounds.append(executed * taken / counted)
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
        """The instruction at each address, as llvm-mca reads it."""
        command = [*self._tools.llvm("llvm-objdump"), "-d", "--no-show-raw-insn", str(program)]
        code = {}
        for address, line in re.findall(r"^\s*([0-9a-f]+):\s+(.*)$", _output(command), re.M):
            text = re.split(r"\s(?:#|//)\s", line)[0]
            # Where branches lead does not matter, and an absolute address may be out of reach.
            code[int(address, 16)] = re.sub(r"(?:0x)?[0-9a-f]+ <[^>]*>", ".L0", text)
        return code

    def _modelled(self, texts: Sequence[Sequence[str]], independent: bool) -> list[int]:
        """The cycles of some sequences of instructions, each by itself.

        Args:
            texts: The instructions.
            independent: No load waits for an earlier store; else all do.
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
    """The pieces of code that a log of qemu says were executed, without the driver's.

    Args:
        lines: The log: a piece's instructions when it is translated, and a line for each execution.

    Raises:
        ModelError: There is no kernel in it, or it is too long.
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
        # A long instruction's bytes go on in a line without text.
        elif line.startswith(b"0x") and len(line.split(b"  ", 2)) == 3:
            last = line.split(b":", 1)[0]
    if not order:
        raise ModelError("The emulator's log shows no kernel.")
    return _Run(pieces, np.array(order))


def _stretches(lengths: np.ndarray) -> list[tuple[int, int, int]]:
    """Where to look: begin of the lead-in, begin and end of each stretch, in executed pieces.

    Args:
        lengths: Instructions of each executed piece.
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1])
    if total <= _NUM_STRETCHES * (_LEAD_IN + _STRETCH):
        return [(0, 0, len(lengths))]
    rng = random.Random(0)
    found = []
    for number in range(_NUM_STRETCHES):
        # At a random place of each part: a fixed one would meet the same part of every loop.
        position = int((total - _LEAD_IN - _STRETCH) * (number + rng.random()) / _NUM_STRETCHES)
        places = (position, position + _LEAD_IN, position + _LEAD_IN + _STRETCH)
        begin, middle, end = (int(np.searchsorted(ends, place, "right")) for place in places)
        middle = max(middle, begin + 1)
        found.append((begin, middle, max(end, middle + 1)))
    return [(begin, middle, min(end, len(lengths))) for begin, middle, end in found]


def _zig() -> str:
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise ModelError("The ziglang package is not there; run `pip install ziglang`.")
    return str(pathlib.Path(spec.origin).parent / "zig")


def _output(command: Sequence[str], text: str = "") -> str:
    """What a tool writes; its last words where it fails."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_SEC, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"`{command[0]} ...` cannot be run: {error}.") from error
    if done.returncode != 0:
        reason = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise ModelError(f"`{' '.join(command[-6:])}` failed: {reason[0].strip()}")
    return done.stdout
