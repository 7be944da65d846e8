from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from cprune_tf.compiler.database import DatabaseError, ProgramDatabase

from . import workloads

_NOBODY = 65534
FILES = ("database_workload.json", "database_tuning_record.json")

# Each forked writer commits records until it is killed; what it reports was committed before.
_WRITERS = """
import os, signal, sys
from compiler import workloads
from cprune_tf.compiler.database import ProgramDatabase

for writer, folder in enumerate(sys.argv[1:]):
    reader, report = os.pipe()
    child = os.fork()
    if not child:
        database = ProgramDatabase(folder)
        count = 0
        while True:
            # New workloads too, so that both files grow.
            mod = workloads.dense_workload(16 + count // 20)
            trace, arguments = workloads.some_trace(mod), workloads.arguments(mod)
            for _ in range(20):
                database.add(mod, trace, 10.0 - count / 1e4, workloads.LLVM, arguments)
                count += 1
                os.write(report, b".")
    received = 0
    while received < 25 + 17 * writer:
        received += len(os.read(reader, 1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(report)
    while os.read(reader, 1):
        received += 1
    print(received, flush=True)
"""


@pytest.fixture(scope="module")
def workload():
    return workloads.dense_workload()


def _add(database, mod, latency_ms):
    trace = workloads.some_trace(mod)
    database.add(mod, trace, latency_ms, workloads.LLVM, workloads.arguments(mod))


def _filled(directory, mod, latencies_ms=(3.0, 1.0, 2.0)):
    database = ProgramDatabase(directory)
    for latency_ms in latencies_ms:
        _add(database, mod, latency_ms)
    return database


def test_programs_come_fastest_first(tmp_path, workload):
    database = _filled(tmp_path, workload)
    assert [p.latency_ms for p in database.programs(workload)] == pytest.approx([1.0, 2.0, 3.0])
    assert [p.latency_ms for p in database.programs(workload, 2)] == pytest.approx([1.0, 2.0])
    assert database.best_latency_ms(workload) == pytest.approx(1.0)
    assert len(database) == 3


def test_a_workload_never_measured_has_no_programs_and_stays_out_of_the_files(tmp_path, workload):
    database = _filled(tmp_path, workload)
    before = [(tmp_path / name).read_bytes() for name in FILES]
    other = workloads.dense_workload(24)
    assert database.programs(other) == () and database.best_latency_ms(other) is None
    assert [(tmp_path / name).read_bytes() for name in FILES] == before


def test_a_second_open_sees_the_same(tmp_path, workload):
    _filled(tmp_path / "new" / "folder", workload)
    again = ProgramDatabase(tmp_path / "new" / "folder")
    assert again.best_latency_ms(workload) == pytest.approx(1.0)
    assert [p.latency_ms for p in again.programs(workload)] == pytest.approx([1.0, 2.0, 3.0])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cut", [1, 2, 20, -1])
def test_a_torn_last_line_is_cut_and_the_rest_survives(tmp_path, workload, name, cut, caplog):
    _filled(tmp_path, workload)
    path = tmp_path / name
    whole = path.read_bytes()
    assert whole.endswith(b"\n")
    # What a killed writer leaves of a line that it was about to add: its beginning.
    line = whole.splitlines()[-1]
    path.write_bytes(whole + (line[:cut] if cut > 0 else line[:-1]))

    database = ProgramDatabase(tmp_path)

    assert path.read_bytes() == whole
    assert name in caplog.text and "cut" in caplog.text
    assert [p.latency_ms for p in database.programs(workload)] == pytest.approx([1.0, 2.0, 3.0])
    _add(database, workload, 0.5)
    assert ProgramDatabase(tmp_path).best_latency_ms(workload) == pytest.approx(0.5)


@pytest.mark.parametrize("name", FILES)
def test_a_last_line_without_its_line_end_is_kept_and_the_next_one_starts_a_line(
    tmp_path, workload, name
):
    _filled(tmp_path, workload)
    path = tmp_path / name
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))

    database = ProgramDatabase(tmp_path)
    assert len(database) == 3
    _add(database, workloads.dense_workload(24), 4.0)
    _add(database, workload, 0.5)

    again = ProgramDatabase(tmp_path)
    assert len(again) == 5 and again.best_latency_ms(workload) == pytest.approx(0.5)
    assert all(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def test_the_very_first_line_may_be_torn(tmp_path, workload):
    (tmp_path / FILES[0]).write_bytes(b'["12345", "AAAA')
    database = ProgramDatabase(tmp_path)
    assert len(database) == 0
    _add(database, workload, 1.0)
    assert ProgramDatabase(tmp_path).best_latency_ms(workload) == pytest.approx(1.0)


def test_killed_writers_leave_every_committed_record(tmp_path):
    folders = [tmp_path / str(number) for number in range(4)]
    tests = pathlib.Path(__file__).resolve().parents[1]
    paths = [str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", _WRITERS, *map(str, folders)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reported = [int(line) for line in done.stdout.split()]
    assert len(reported) == len(folders) and min(reported) >= 25
    for folder, committed in zip(folders, reported, strict=True):
        database = ProgramDatabase(folder)
        # The last record may have been written and not reported any more.
        assert committed <= len(database) <= committed + 1
        first = workloads.dense_workload(16)
        latencies = [p.latency_ms for p in database.programs(first)]
        assert latencies == pytest.approx([10.0 - i / 1e4 for i in reversed(range(20))])


@pytest.mark.parametrize("name", FILES)
def test_a_corrupt_middle_is_refused_with_the_file(tmp_path, workload, name):
    _filled(tmp_path, workload)
    _add(ProgramDatabase(tmp_path), workloads.dense_workload(24), 1.0)
    path = tmp_path / name
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) >= 2
    lines[0] = lines[0][: len(lines[0]) // 2] + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(DatabaseError, match=name) as caught:
        ProgramDatabase(tmp_path)
    assert "Move" in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == b"".join(lines)  # left for a person to look at


def test_a_record_of_a_missing_workload_is_refused(tmp_path, workload):
    _filled(tmp_path, workload)
    (tmp_path / FILES[0]).write_bytes(b"")
    with pytest.raises(DatabaseError, match="corrupt"):
        ProgramDatabase(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(DatabaseError, match="writable"):
        ProgramDatabase(tmp_path / "file" / "tuning")


@pytest.fixture
def unprivileged_folder():
    """A folder of the user that the test runs as: not root, whom no permission stops."""
    user = os.geteuid() or _NOBODY
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, user, -1)
        before = os.geteuid()
        os.seteuid(user)
        try:
            yield pathlib.Path(folder)
        finally:
            os.seteuid(before)


def test_a_read_only_folder_is_refused(unprivileged_folder):
    unprivileged_folder.chmod(0o500)
    with pytest.raises(DatabaseError, match="writable"):
        ProgramDatabase(unprivileged_folder)


def test_read_only_files_are_refused_before_anything_is_measured(unprivileged_folder, workload):
    _filled(unprivileged_folder, workload)
    for name in FILES:
        (unprivileged_folder / name).chmod(0o400)
    with pytest.raises(DatabaseError, match="writable"):
        ProgramDatabase(unprivileged_folder)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_is_an_error_and_no_silent_loss(tmp_path, workload):
    database = _filled(tmp_path, workload)
    path = tmp_path / FILES[1]
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(DatabaseError, match="space"):
        _add(database, workload, 0.5)
