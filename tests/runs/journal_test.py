from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from cprune_tf.runs.journal import Journal, JournalError, read_records
from cprune_tf.storage import lock

from . import toy_events
from .toy_events import SCHEMA, Made, Note, Step


def _texts(path):
    return [record.event.text for record in read_records(path, SCHEMA)]


def test_append_is_read_back_by_a_later_process(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, SCHEMA) as journal:
        journal.append(Note("first"))
        event = journal.append(Made("a", {"g0": [1, 2]}, 0.5))
        assert event == Made("a", {"g0": (1, 2)}, 0.5), "as it will be read, not as it was passed"
        assert journal.records == read_records(path, SCHEMA)
    with Journal(path, SCHEMA) as journal:
        assert [type(record.event) for record in journal.records] == [Note, Made]
        assert [record.seq for record in journal.records] == [1, 2]
        assert journal.events(Made) == (event,)
        assert journal.append(Note("done")) == Note("done")
        assert journal.records[-1].seq == 3
        assert journal.last(Note).text == "done"
        assert journal.last(Step) is None


def test_events_are_found_by_their_exact_class(tmp_path):
    with Journal(tmp_path / "j", SCHEMA) as journal:
        journal.append(toy_events.LoudNote("hey"))
        assert journal.last(Note) is None
        assert journal.last(toy_events.LoudNote).text == "hey"


def test_lines_are_flat(tmp_path):
    with Journal(tmp_path / "j", SCHEMA) as journal:
        journal.append(Made("a", {"g": (1,)}, float("nan")))
    first, second = map(json.loads, (tmp_path / "j").read_text().splitlines())
    assert list(first) == ["seq", "time", "event", "format", "package"]
    assert (first["seq"], first["event"], first["format"]) == (0, "journal", 3)
    del second["time"]
    assert second == {
        "seq": 1, "event": "made", "name": "a", "removed": {"g": [1]}, "ratio": None,
    }  # fmt: skip


def test_time_is_utc_iso(tmp_path):
    with Journal(tmp_path / "j", SCHEMA) as journal:
        journal.append(Note("a"))
        then = journal.records[0].time
    assert json.loads((tmp_path / "j").read_text().splitlines()[1])["time"].endswith("Z")
    assert abs((datetime.datetime.now(datetime.timezone.utc) - then).total_seconds()) < 60


def test_what_is_not_data_is_refused_and_leaves_nothing(tmp_path):
    with Journal(tmp_path / "j", SCHEMA) as journal:
        with pytest.raises(TypeError, match="object"):
            journal.append(Note(object()))
        with pytest.raises(TypeError, match=r"made\.ratio: expected a number, received 'high'"):
            journal.append(Made("a", {}, "high"))
        with pytest.raises(TypeError, match="no event of this journal; expected one of Note"):
            journal.append(toy_events.Unlisted("a"))
        journal.append(Note("b"))
    assert _texts(tmp_path / "j") == ["b"]
    with pytest.raises(ValueError, match="closed"):
        journal.append(Note("c"))


@pytest.mark.parametrize(
    "tail",
    [b'{"seq": 2, "time": "2026', b"\0\0\0\0", b'{"seq": 2, "event": "x"\n', b"[]", b"\n"],
)
def test_torn_last_line_is_moved_off(tmp_path, tail):
    path = tmp_path / "journal.jsonl"
    with Journal(path, SCHEMA) as journal:
        journal.append(Note("a"))
        assert journal.repaired == ""
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert _texts(path) == ["a"]
    assert path.read_bytes() == whole + tail, "reading must not change the file"
    with Journal(path, SCHEMA) as journal:
        assert journal.repaired == tail.decode()
        journal.append(Note("c"))
        assert journal.records[-1].seq == 2
    assert (tmp_path / "journal.jsonl.torn").read_bytes() == tail.rstrip(b"\n") + b"\n"
    assert _texts(path) == ["a", "c"]
    assert path.read_bytes().startswith(whole)


def test_torn_header_is_written_again(tmp_path):
    path = tmp_path / "j"
    path.write_bytes(b'{"seq": 0, "time": "2026')
    assert read_records(path, SCHEMA) == ()
    with Journal(path, SCHEMA) as journal:
        journal.append(Note("a"))
    assert _texts(path) == ["a"]


def test_whole_last_line_without_newline_is_kept(tmp_path):
    path = tmp_path / "j"
    with Journal(path, SCHEMA) as journal:
        journal.append(Note("a"))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    with Journal(path, SCHEMA) as journal:
        journal.append(Note("b"))
    assert _texts(path) == ["a", "b"]


@pytest.mark.parametrize("damage", ["garbage", "missing", "not an object"])
def test_damaged_middle_names_the_line(tmp_path, damage):
    path = tmp_path / "journal.jsonl"
    with Journal(path, SCHEMA) as journal:
        for name in "abc":
            journal.append(Note(name))
    lines = path.read_text().splitlines()
    replacement = {"garbage": ['{"seq": 1, "ev'], "missing": [], "not an object": ["3"]}[damage]
    path.write_text("\n".join([lines[0], *replacement, *lines[2:]]) + "\n")
    with pytest.raises(JournalError, match=r"journal\.jsonl, line 2"):
        Journal(path, SCHEMA)
    with pytest.raises(JournalError, match="line 2"):
        read_records(path, SCHEMA)
    path.write_text("\n".join(lines) + "\n")
    Journal(path, SCHEMA).close()  # the refused opening left no lock behind


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"removed": {"g": ["x"]}}, r"made\.removed\['g'\]\[0\]: expected a whole number"),
        ({"surprise": 1}, "made: the field 'surprise' is not known"),
        ({"event": "maybe"}, "the event 'maybe' is not known"),
        ({"time": "yesterday"}, "yesterday"),
        ({"time": None}, "time: expected a string"),
        ({"name": ...}, "made: the field 'name' is missing"),
    ],
)
def test_line_that_does_not_fit_names_line_event_and_field(tmp_path, changes, message):
    path = tmp_path / "journal.jsonl"
    with Journal(path, SCHEMA) as journal:
        journal.append(Note("a"))
        journal.append(Made("a", {"g": (1,)}, 0.5))
    *lines, last = path.read_text().splitlines()
    fields = {**json.loads(last), **changes}
    fields = {name: value for name, value in fields.items() if value is not ...}
    path.write_text("\n".join([*lines, json.dumps(fields)]) + "\n")
    kind = fields["event"]
    with pytest.raises(JournalError, match=rf"jsonl, line 3 \(event '{kind}'\).*{message}"):
        read_records(path, SCHEMA)


def _write_lines(path, *lines):
    stamped = [{"seq": n, "time": "2026-01-01T00:00:00.000Z", **x} for n, x in enumerate(lines)]
    path.write_text("".join(json.dumps(line) + "\n" for line in stamped))


def _header(number):
    return {"event": "journal", "format": number, "package": "9.9"}


def test_older_formats_are_upgraded_step_by_step(tmp_path):
    path = tmp_path / "j"
    # Format 1 had no header and named a note's text "words"; format 2 had no ratio.
    _write_lines(
        path, {"event": "note", "words": "a"}, {"event": "made", "name": "x", "removed": {}}
    )
    before = path.read_bytes()
    events = [record.event for record in read_records(path, SCHEMA)]
    assert events == [Note("a"), Made("x", {}, 1.0)]
    assert path.read_bytes() == before, "reading must not change the file"
    with Journal(path, SCHEMA) as journal:
        assert [record.event for record in journal.records] == events
        journal.append(Note("b"))
    assert [record.event for record in read_records(path, SCHEMA)] == [*events, Note("b")]
    assert json.loads(path.read_text().splitlines()[0])["format"] == 3
    assert (tmp_path / "j.format1").read_bytes() == before


def test_format_with_a_header_is_upgraded(tmp_path):
    path = tmp_path / "j"
    _write_lines(path, _header(2), {"event": "made", "name": "x", "removed": {}})
    with Journal(path, SCHEMA) as journal:
        assert [record.event for record in journal.records] == [Made("x", {}, 1.0)]
    first = json.loads(path.read_text().splitlines()[0])
    assert (first["format"], first["package"]) == (3, "9.9"), "the package that began it"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([_header(4)], r"format 4 \(written by version 9\.9 of this package\)"),
        ([_header(0)], "format 0"),
        ([_header("x")], "format x"),
    ],
)
def test_other_formats_are_refused(tmp_path, lines, message):
    path = tmp_path / "j"
    _write_lines(path, *lines)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=rf"{message}.*reads format 3.*another --workdir"):
        Journal(path, SCHEMA)
    with pytest.raises(JournalError, match=message):
        read_records(path, SCHEMA)
    assert path.read_bytes() == before


@pytest.mark.parametrize("events", [(Note, Note), (toy_events.Reserved,), (str,)])
def test_schemas_that_cannot_work_are_refused(events):
    with pytest.raises(ValueError, match=r"kind of its own|set by the journal itself"):
        toy_events.records.Schema(1, events)


_WRITER = """
import sys
from cprune_tf.runs.journal import Journal
from toy_events import SCHEMA, Step
journal = Journal(sys.argv[1], SCHEMA)
for number in range(10**9):
    journal.append(Step(number, "x" * 3000))
    print(number, flush=True)
"""
_ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]),
}


def _start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_ENVIRONMENT,
    )


@pytest.mark.parametrize("delay_sec", [0.0, 0.01, 0.037, 0.1])
def test_killed_writer_loses_nothing_it_acknowledged(tmp_path, delay_sec):
    path = tmp_path / "journal.jsonl"
    process = _start(_WRITER, str(path))
    assert process.stdout.readline() == "0\n"
    time.sleep(delay_sec)
    process.send_signal(signal.SIGKILL)
    # Not communicate(), which would miss what readline() has read ahead.
    with process.stdout as stream:
        acknowledged = [0, *map(int, stream.read().split("\n")[:-1])]
    process.wait()
    with Journal(path, SCHEMA) as journal:  # the dead process's lock is gone
        numbers = [step.number for step in journal.events(Step)]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) in (len(acknowledged), len(acknowledged) + 1)
        journal.append(Note("resumed"))
    assert read_records(path, SCHEMA)[-1].event == Note("resumed")


def test_second_process_is_refused_with_the_holder(tmp_path):
    path = tmp_path / "journal.jsonl"
    process = _start(_WRITER, str(path))
    try:
        process.stdout.readline()
        with pytest.raises(lock.LockedError, match=rf"process {process.pid};"):
            Journal(path, SCHEMA)
        assert read_records(path, SCHEMA)[0].event.number == 0, "reading needs no lock"
    finally:
        process.kill()
        process.communicate()


def test_second_journal_in_one_process_is_refused(tmp_path):
    held = Journal(tmp_path / "j", SCHEMA)
    with held, pytest.raises(lock.LockedError, match=str(os.getpid())):
        Journal(tmp_path / "j", SCHEMA)
    Journal(tmp_path / "j", SCHEMA).close()


def test_appends_of_threads_do_not_mix(tmp_path):
    with Journal(tmp_path / "j", SCHEMA) as journal:

        def work(name: str) -> None:
            for _ in range(50):
                journal.append(Note(name * 500))

        threads = [threading.Thread(target=work, args=(n,)) for n in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    numbers = [record.seq for record in read_records(tmp_path / "j", SCHEMA)]
    assert numbers == list(range(1, 201))


_FULL_DISK = """
import json, sys
from cprune_tf.runs.journal import Journal
from cprune_tf.storage import files
from toy_events import SCHEMA, Note, Step
journal = Journal(sys.argv[1], SCHEMA)
written = 0
try:
    for number in range(1000):
        journal.append(Step(number, "x" * 1500))
        written += 1
except files.StorageError as error:
    print(json.dumps({"errno": error.errno, "text": str(error), "written": written}))
small = sum(1 for _ in [journal.append(Note("small"))]) if sys.argv[2] == "again" else 0
"""


def _check_stopped_writer(path, output: str) -> dict[str, object]:
    report = json.loads(output)
    assert "--resume" in report["text"]
    assert path.name in report["text"]
    assert 0 < report["written"] < 1000
    events = read_records(path, SCHEMA)
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
        env=_ENVIRONMENT,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert "No space left" in report["text"]
    assert "free some space" in report["text"]
    assert len(read_records(kept, SCHEMA)) == report["written"] > 0
