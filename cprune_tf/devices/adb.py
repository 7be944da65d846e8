"""Android phones over adb: push the bundle, start the server, forward its port, then use RPC."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import re
import secrets
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Sequence

from cprune_tf.devices import bundle
from cprune_tf.devices.connection import Address
from cprune_tf.devices.errors import DeviceUnreachableError
from cprune_tf.devices.rpc import RpcDevice
from cprune_tf.storage.lock import FileLock, LockedError

ROOT = "/data/local/tmp/cprune_tf"

_ABIS = {"arm64-v8a": "aarch64"}
_PART_BYTES = 8 << 20
_SHORT_SEC = 30.0
_PUSH_SEC = 300.0
_START_SEC = 300.0
_IDLE_SERVER_SEC = 1800
_STATES = {
    "unauthorized": "is unauthorised: unlock the phone and accept this computer's key",
    "offline": "is offline: unplug and plug it in again, or run `adb reconnect offline`",
    "no permissions": "may not be used by this user: add a udev rule (apt-get install "
    "android-sdk-platform-tools-common) and plug it in again",
    "recovery": "is in recovery mode: start Android",
    "bootloader": "is in its bootloader: start Android",
}


@dataclasses.dataclass(frozen=True)
class Adb:
    """The adb program, for one phone.

    Attributes:
        serial: The serial that `adb devices` shows; "" for the only phone.
        program: The path of adb; "" to look it up in PATH.
    """

    serial: str
    program: str = ""

    def __call__(self, *arguments: str, timeout_sec: float = _SHORT_SEC) -> str:
        """Runs `adb -s SERIAL ...`.

        Args:
            *arguments: adb's command.
            timeout_sec: Time that the whole call may take.

        Returns:
            The text that adb printed.

        Raises:
            DeviceUnreachableError: adb failed; the message says which command and why.
        """
        return self._run(["-s", self.serial, *arguments] if self.serial else arguments, timeout_sec)

    def shell(self, script: str, *, timeout_sec: float = _SHORT_SEC) -> str:
        """Runs a script in the phone's shell; an exit status other than 0 is an error."""
        return self("shell", script, timeout_sec=timeout_sec)

    def selected(self) -> Adb:
        """Returns an Adb with the phone's serial, after checking that the phone can be used.

        Raises:
            DeviceUnreachableError: There is no adb, no phone or more than one, or the phone is in a
                state in which it cannot be used; the message says what to do.
        """
        states = self.states()
        serial = self.serial
        if not serial and len(states) == 1:
            serial = next(iter(states))
        if serial not in states:
            visible = ", ".join(states) or "none"
            complaint = f"There is no phone {serial}" if serial else "No phone is named"
            raise DeviceUnreachableError(
                f"{complaint}; adb sees: {visible}. Plug it in, switch on USB debugging in its "
                "developer options, and use --device=adb:SERIAL as `adb devices` shows it."
            )
        state = states[serial]
        if state != "device":
            explanation = next(
                (text for key, text in _STATES.items() if state.startswith(key)), None
            )
            raise DeviceUnreachableError(
                f"The phone {serial} {explanation or f'is in state {state!r}: see `adb devices`'}."
            )
        return dataclasses.replace(self, serial=serial)

    def states(self) -> dict[str, str]:
        """Returns the state of each phone that adb sees, by serial."""
        lines = self._run(["devices"], _SHORT_SEC).splitlines()
        pairs = (line.split("\t", 1) for line in lines if "\t" in line)
        return {serial: state.strip() for serial, state in pairs}

    def _run(self, arguments: Sequence[str], timeout_sec: float) -> str:
        program = self.program or os.environ.get("ADB", "") or shutil.which("adb")
        if not program:
            raise DeviceUnreachableError(
                "adb is not installed; run `sudo apt-get install adb` (or set ADB to its path)."
            )
        command = f"`adb {' '.join(arguments)[:120]}`"
        try:
            result = subprocess.run(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_sec,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceUnreachableError(
                f"{command} did not end within {timeout_sec:g} s; is the phone still plugged in?"
            ) from None
        except OSError as error:
            raise DeviceUnreachableError(f"{program} can't be run: {error}.") from error
        if result.returncode != 0:
            reason = " ".join((result.stderr or result.stdout).split())[-300:]
            raise DeviceUnreachableError(f"{command} failed: {reason or result.returncode}")
        return result.stdout


class Phone:
    """Installs, starts, forwards and ends the server on one phone.

    Args:
        adb: The adb program for the phone.
        bundle_dir: The folder of the bundle; None for bundle.make.default_directory().
    """

    def __init__(self, adb: Adb, bundle_dir: pathlib.Path | None = None) -> None:
        self._adb = adb.selected()
        self._bundle_dir = bundle_dir
        self._key = secrets.token_hex(8)
        self._process_id = 0
        self._phone_port = 0
        self._port = 0
        self._lock: FileLock | None = None

    @property
    def address(self) -> Address:
        """The address of the forwarded server on this machine; valid after start."""
        return Address("rpc", "127.0.0.1", self._port, self._key)

    @property
    def serial(self) -> str:
        """The phone's serial, as `adb devices` shows it."""
        return self._adb.serial

    def start(self) -> None:
        """Installs, starts and forwards the server, as far as that is not yet done.

        Raises:
            DeviceUnreachableError: One of these steps failed; the message says which, and what to
                do.
        """
        self._adb.selected()
        was_reserved = self._lock is not None
        self._reserve()
        try:
            if not self._process_id or not self._is_alive():
                folder = self._install()
                self._phone_port = self._launch(folder, self._send_agent())
            # Forwarded again even if the server lives: adb forgets it when the phone is unplugged.
            local = f"tcp:{self._port}" if self._port else "tcp:0"
            printed = self._adb("forward", local, f"tcp:{self._phone_port}").strip()
            self._port = self._port or int(printed)
        except BaseException:
            if not was_reserved:
                self._release()
            raise

    def stop(self) -> None:
        """Ends the server and the forwarding; pushed files stay on the phone for the next time."""
        for arguments in (
            ("shell", f"kill {self._process_id} 2>/dev/null; true"),
            ("forward", "--remove", f"tcp:{self._port}"),
        ):
            try:
                if self._process_id:
                    self._adb(*arguments)
            except DeviceUnreachableError:
                pass  # the phone was unplugged; its server ends itself when no host connects
        self._process_id = 0
        self._release()

    def clean_up(self) -> None:
        """Ends the server and removes everything from the phone.

        Raises:
            DeviceUnreachableError: The phone cannot be reached, or another process uses it.
        """
        self._reserve()
        try:
            self._adb.shell(
                f"[ -f {ROOT}/server.pid ] && kill $(cat {ROOT}/server.pid) 2>/dev/null; "
                f"rm -rf {ROOT}"
            )
        finally:
            self.stop()

    def _reserve(self) -> None:
        """Locks the phone against other processes of this machine, which would end our server."""
        if self._lock is not None:
            return
        name = re.sub(r"\W", "_", f"cprune_tf_{os.getuid()}_{self.serial}")
        try:
            self._lock = FileLock(pathlib.Path(tempfile.gettempdir(), f"{name}.lock"))
        except LockedError:
            raise DeviceUnreachableError(
                f"The phone {self.serial} is in use by another run or tool on this machine; end "
                "that, or wait until it has ended. A run that was stopped by this goes on with "
                "--resume."
            ) from None

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def _install(self) -> str:
        """Pushes and unpacks the bundle unless the phone has it; returns its folder."""
        abi = self._adb.shell("getprop ro.product.cpu.abi").strip()
        try:
            packed = bundle.find_bundle(self._bundle_dir)
        except bundle.BundleError as error:
            raise DeviceUnreachableError(str(error)) from error
        if _ABIS.get(abi) != packed.abi:
            raise DeviceUnreachableError(
                f"The phone's ABI is {abi!r}; the bundle is for {packed.abi} (arm64-v8a) only."
            )
        folder = f"{ROOT}/bundle-{packed.version}"
        if not packed.is_current():
            raise DeviceUnreachableError(
                f"The bundle holds apache-tvm {packed.runtimes['apache-tvm']}, this machine has "
                "another; run `python tools/make_bundle.py`."
            )
        if "yes" in self._adb.shell(f"[ -f {folder}/complete ] && echo yes; true"):
            return folder
        self._check_space(3 * packed.path.stat().st_size)
        parts = self._push_parts(packed)
        # The archive is verified before it is unpacked, and `complete` is written only after that,
        # so an interruption never leaves a half-unpacked bundle in use.
        script = (
            f"set -e; cd {ROOT}/parts; cat {' '.join(parts)} > ../bundle.tar.gz; cd ..; "
            f"echo '{packed.sha256}  bundle.tar.gz' | sha256sum -c - >/dev/null; rm -rf {folder}; "
            f"mkdir {folder}; tar -xzf bundle.tar.gz -C {folder}; rm -rf parts bundle.tar.gz; "
            f"touch {folder}/complete"
        )
        try:
            self._adb.shell(script, timeout_sec=_PUSH_SEC)
        except DeviceUnreachableError as error:
            self._adb.shell(f"rm -rf {ROOT}/parts {ROOT}/bundle.tar.gz {folder}")
            raise DeviceUnreachableError(f"The bundle could not be unpacked: {error}") from error
        return folder

    def _push_parts(self, packed: bundle.Bundle) -> list[str]:
        """Pushes the parts of the bundle that the phone lacks; returns the names of all parts."""
        self._adb.shell(f"mkdir -p {ROOT}/parts")
        listed = self._adb.shell(f"cd {ROOT}/parts; sha256sum * 2>/dev/null; true")
        present_parts = {
            tuple(line.split()[:2]) for line in listed.splitlines() if len(line.split()) > 1
        }
        names: list[str] = []
        with packed.path.open("rb") as file, tempfile.TemporaryDirectory() as temporary:
            while data := file.read(_PART_BYTES):
                digest = hashlib.sha256(data).hexdigest()
                names.append(f"{len(names):03d}-{digest[:16]}")
                if (digest, names[-1]) not in present_parts:
                    part = pathlib.Path(temporary, names[-1])
                    part.write_bytes(data)
                    self._adb("push", str(part), f"{ROOT}/parts/", timeout_sec=_PUSH_SEC)
                    part.unlink()
        return names

    def _check_space(self, needed_bytes: int) -> None:
        self._adb.shell(f"mkdir -p {ROOT}")
        fields = self._adb.shell(f"df -k {ROOT}").strip().splitlines()[-1].split()
        free_kb = next((int(f) for f in fields[3:4] if f.isdigit()), None)
        if free_kb is not None and free_kb * 1024 < needed_bytes:
            raise DeviceUnreachableError(
                f"The phone has {free_kb / 1024:.0f} MB free at {ROOT}; {needed_bytes / 2**20:.0f} "
                "MB are needed. Free some space, or remove old bundles: "
                "`python tools/doctor.py --device=adb:SERIAL --cleanup`."
            )

    def _send_agent(self) -> str:
        """Pushes the server's code of this version; returns its path on the phone."""
        data = agent_archive()
        path = f"{ROOT}/agent-{hashlib.sha256(data).hexdigest()[:12]}.zip"
        with tempfile.TemporaryDirectory() as temporary:
            local = pathlib.Path(temporary, "agent.zip")
            local.write_bytes(data)
            self._adb("push", str(local), path)
        return path

    def _launch(self, folder: str, agent: str) -> int:
        """Starts the server; returns its port on the phone."""
        log, pid_file = f"{ROOT}/server.log", f"{ROOT}/server.pid"
        server = (
            f"{folder}/py -m cprune_tf.devices.agent.server --port=0 --key={self._key} "
            f"--work_dir={ROOT}/work --exit_after_sec={_IDLE_SERVER_SEC}"
        )
        self._adb.shell(
            f"[ -f {pid_file} ] && kill $(cat {pid_file}) 2>/dev/null; rm -f {log}; "
            f"PYTHONPATH={agent} TMPDIR={ROOT} setsid {server} </dev/null >{log} 2>&1 & "
            f"echo $! > {pid_file}"
        )
        self._process_id = int(self._adb.shell(f"cat {pid_file}").strip())
        deadline = time.monotonic() + _START_SEC
        while time.monotonic() < deadline:
            printed = self._adb.shell(f"cat {log} 2>/dev/null; true")
            for line in printed.splitlines():
                if line.startswith("LISTENING "):
                    return int(json.loads(line.partition(" ")[2])["port"])
            if not self._is_alive():
                self._process_id = 0
                reason = " ".join(printed.split())[-300:]
                raise DeviceUnreachableError(f"The server did not start on the phone: {reason}")
            time.sleep(0.5)
        raise DeviceUnreachableError(
            f"The server did not start on the phone within {_START_SEC:g} s; see its log {log}."
        )

    def _is_alive(self) -> bool:
        script = f"kill -0 {self._process_id} 2>/dev/null && echo yes; true"
        return "yes" in self._adb.shell(script)


class AdbDevice(RpcDevice):
    """A phone; its server is started again after it was lost.

    Args:
        serial: The serial that `adb devices` shows; "" for the only phone.
        cpu: LLVM's name of the processor; "" to take it from the device's description.
        cores: The cores to run on, as in base.Device.
        reconnect_sec: How many seconds to wait for a phone that was lost.
        bundle_dir: The folder of the bundle, as in Phone.
        program: The path of adb, as in Adb.
        linker: The command that links libraries, as in base.Device.
    """

    def __init__(
        self,
        serial: str,
        *,
        cpu: str = "",
        cores: str = "",
        reconnect_sec: float = 30.0,
        bundle_dir: pathlib.Path | None = None,
        program: str = "",
        linker: str = "",
    ) -> None:
        self._phone = Phone(Adb(serial, program), bundle_dir)
        self._phone.start()
        super().__init__(
            self._phone.address,
            f"adb:{self._phone.serial}",
            cpu=cpu,
            cores=cores,
            reconnect_sec=reconnect_sec,
            kind="adb",
            revive=self._phone.start,
            linker=linker,
        )

    def close(self) -> None:
        """See Device; ends the server on the phone."""
        super().close()
        self._phone.stop()


def clean_up(serial: str, program: str = "") -> str:
    """Removes everything that was pushed to a phone.

    Args:
        serial: The serial that `adb devices` shows; "" for the only phone.
        program: The path of adb, as in Adb.

    Returns:
        The phone's serial.

    Raises:
        DeviceUnreachableError: The phone cannot be reached.
    """
    phone = Phone(Adb(serial, program))
    phone.clean_up()
    return phone.serial


def agent_archive() -> bytes:
    """Returns the server's code as an importable zip archive; equal code gives equal bytes."""
    package = pathlib.Path(__file__).resolve().parents[1]
    devices = package / "devices"
    packages = [package / "__init__.py", devices / "__init__.py"]
    files = [*packages, *sorted((devices / "agent").glob("*.py"))]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            name = f"cprune_tf/{file.relative_to(package)}"
            archive.writestr(zipfile.ZipInfo(name), file.read_bytes())
    return buffer.getvalue()
