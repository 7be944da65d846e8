from __future__ import annotations

import dataclasses
import datetime
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from cprune_tf.runs.journal import Journal, JournalError, read_events
from cprune_tf.storage import lock


@dataclasses.dataclass(frozen=True)
class _Latency:
    median_ms: float
    num_threads: int


def test_append_is_read_back_by_a_later_process(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        first = journal.append("baseline", accuracy=0.91, channels={"conv": 16})
        journal.append("candidate", removed={"g0": (1, 2)})
        assert journal.events() == read_events(path)
    assert first["seq"] == 0
    with Journal(path) as journal:
        assert [e["event"] for e in journal.events()] == ["baseline", "candidate"]
        assert journal.events("candidate")[0]["removed"] == {"g0": [1, 2]}
        assert journal.append("stopped", reason="done")["seq"] == 2
        assert journal.last("stopped")["reason"] == "done"
        assert journal.last("finished") is None


def test_time_is_utc_iso(tmp_path):
    with Journal(tmp_path / "j") as journal:
        text = journal.append("a")["time"]
    assert text.endswith("Z")
    then = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    assert abs((datetime.datetime.now(datetime.timezone.utc) - then).total_seconds()) < 60


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        (_Latency(1.5, 2), {"median_ms": 1.5, "num_threads": 2}),
        ((_Latency(np.float64(1.5), 2),), [{"median_ms": 1.5, "num_threads": 2}]),
        ({3: "x"}, {"3": "x"}),
        (float("nan"), None),
        (np.float64("inf"), None),
        ("línea\r\nzwei", "línea\r\nzwei"),
        (frozenset({"b", "a"}), ["a", "b"]),
    ],
)
def test_values_serialise(tmp_path, value, expected):
    with Journal(tmp_path / "j") as journal:
        assert journal.append("a", value=value)["value"] == expected
    assert read_events(tmp_path / "j")[0]["value"] == expected


def test_what_is_not_data_is_refused_and_leaves_nothing(tmp_path):
    with Journal(tmp_path / "j") as journal:
        with pytest.raises(TypeError, match="object"):
            journal.append("a", value=object())
        with pytest.raises(ValueError, match="'time'"):
            journal.append("a", time=1)
        journal.append("b")
    assert [e["event"] for e in read_events(tmp_path / "j")] == ["b"]
    with pytest.raises(ValueError, match="closed"):
        journal.append("c")


@pytest.mark.parametrize(
    "tail",
    [b'{"seq": 2, "time": "2026', b"\0\0\0\0", b'{"seq": 2, "event": "x"\n', b"[]", b"\n"],
)
def test_torn_last_line_is_moved_off(tmp_path, tail):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("a")
        journal.append("b")
        assert journal.repaired == ""
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert [e["event"] for e in read_events(path)] == ["a", "b"]
    assert path.read_bytes() == whole + tail, "reading must not change the file"
    with Journal(path) as journal:
        assert journal.repaired == tail.decode()
        assert journal.append("c")["seq"] == 2
    assert (tmp_path / "journal.jsonl.torn").read_bytes() == tail.rstrip(b"\n") + b"\n"
    assert [e["event"] for e in read_events(path)] == ["a", "b", "c"]
    assert path.read_bytes().startswith(whole)


def test_whole_last_line_without_newline_is_kept(tmp_path):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append("a")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    with Journal(path) as journal:
        journal.append("b")
    assert [e["event"] for e in read_events(path)] == ["a", "b"]


@pytest.mark.parametrize("damage", ["garbage", "missing", "not an object"])
def test_damaged_middle_names_the_line(tmp_path, damage):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for name in "abcd":
            journal.append(name)
    lines = path.read_text().splitlines()
    replacement = {"garbage": ['{"seq": 1, "ev'], "missing": [], "not an object": ["3"]}[damage]
    path.write_text("\n".join([lines[0], *replacement, *lines[2:]]) + "\n")
    with pytest.raises(JournalError, match=r"journal\.jsonl, line 2"):
        Journal(path)
    with pytest.raises(JournalError, match="line 2"):
        read_events(path)
    path.write_text("\n".join(lines) + "\n")
    Journal(path).close()  # the refused opening left no lock behind


_WRITER = """
import sys
from cprune_tf.runs.journal import Journal
journal = Journal(sys.argv[1])
for number in range(10**9):
    journal.append("step", number=number, filler="x" * 3000)
    print(number, flush=True)
"""


def _start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize("delay_sec", [0.0, 0.01, 0.037, 0.1])
def test_killed_writer_loses_nothing_it_acknowledged(tmp_path, delay_sec):
    path = tmp_path / "journal.jsonl"
    process = _start(_WRITER, str(path))
    assert process.stdout.readline() == "0\n"
    time.sleep(delay_sec)
    process.send_signal(signal.SIGKILL)
    acknowledged = [0, *map(int, process.communicate()[0].split("\n")[:-1])]
    with Journal(path) as journal:  # the dead process's lock is gone
        numbers = [e["number"] for e in journal.events()]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) in (len(acknowledged), len(acknowledged) + 1)
        journal.append("resumed")
    assert read_events(path)[-1]["event"] == "resumed"


def test_second_process_is_refused_with_the_holder(tmp_path):
    path = tmp_path / "journal.jsonl"
    process = _start(_WRITER, str(path))
    try:
        process.stdout.readline()
        with pytest.raises(lock.LockedError, match=rf"process {process.pid};"):
            Journal(path)
        assert read_events(path)[0]["event"] == "step", "reading needs no lock"
    finally:
        process.kill()
        process.communicate()


def test_second_journal_in_one_process_is_refused(tmp_path):
    with Journal(tmp_path / "j"), pytest.raises(lock.LockedError, match=str(os.getpid())):
        Journal(tmp_path / "j")
    Journal(tmp_path / "j").close()


def _sleep_until(ready, event) -> None:
    ready.set()
    event.wait(60)


def test_forked_child_does_not_keep_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, event = context.Event(), context.Event()
    journal = Journal(tmp_path / "j")
    child = context.Process(target=_sleep_until, args=(ready, event))
    child.start()
    try:
        assert ready.wait(60)
        with pytest.raises(lock.LockedError):
            Journal(tmp_path / "j")
        journal.close()
        Journal(tmp_path / "j").close()
    finally:
        event.set()
        child.join()


def test_appends_of_threads_do_not_mix(tmp_path):
    with Journal(tmp_path / "j") as journal:

        def work(name: str) -> None:
            for _ in range(50):
                journal.append(name, filler=name * 500)

        threads = [threading.Thread(target=work, args=(n,)) for n in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    events = read_events(tmp_path / "j")
    assert [e["seq"] for e in events] == list(range(200))


_FULL_DISK = """
import json, sys
from cprune_tf.runs.journal import Journal
from cprune_tf.storage import files
journal = Journal(sys.argv[1])
written = 0
try:
    for number in range(1000):
        journal.append("step", number=number, filler="x" * 1500)
        written += 1
except files.StorageError as error:
    print(json.dumps({"errno": error.errno, "text": str(error), "written": written}))
small = sum(1 for _ in [journal.append("small")]) if sys.argv[2] == "again" else 0
"""


def _check_stopped_writer(path, output: str) -> dict[str, object]:
    report = json.loads(output)
    assert "--resume" in report["text"]
    assert path.name in report["text"]
    assert 0 < report["written"] < 1000
    events = read_events(path)
    assert len(events) == report["written"]
    assert path.read_bytes().endswith(b"}\n"), "the half line is taken back at once"
    return report


def test_refused_write_leaves_a_valid_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
    process = _start(limit + _FULL_DISK, str(path), "no")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    _check_stopped_writer(path, output)


def test_full_disk_says_so(tmp_path):
    """On a real file system of 64 KiB, mounted in a name space of its own."""
    script = tmp_path / "writer.py"
    script.write_text(_FULL_DISK)
    kept = tmp_path / "kept.jsonl"
    command = (
        f"mount -t tmpfs -o size=64k none {tmp_path}/disk && "
        f"{sys.executable} {script} {tmp_path}/disk/journal.jsonl no && "
        f"cp {tmp_path}/disk/journal.jsonl {kept}"
    )
    (tmp_path / "disk").mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    probe = ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", str(tmp_path / "disk")]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("mounting in a user name space is not allowed here")
    result = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert "No space left" in report["text"]
    assert "free some space" in report["text"]
    assert len(read_events(kept)) == report["written"] > 0
