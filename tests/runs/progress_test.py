from __future__ import annotations

import io
import re
import time

import pytest
import rich.console

from cprune_tf.errors import UserError
from cprune_tf.runs import progress as progress_lib
from cprune_tf.runs.progress import Progress


def _plain_console() -> rich.console.Console:
    return rich.console.Console(file=io.StringIO(), force_terminal=False, width=80)


def _lines(console: rich.console.Console) -> list[str]:
    return [line[9:] for line in console.file.getvalue().splitlines()]


def test_plain_lines_name_the_running_and_the_next_stage(tmp_path):
    console = _plain_console()
    log = tmp_path / "sub" / "run.log"
    ended = []
    stages = ["Tune", "Prune", "Export"]
    with Progress(
        console, log, stages, on_stage_end=lambda name, sec: ended.append((name, sec))
    ) as progress:
        with progress.stage("Tune", total=4) as stage:
            stage.update(4, "conv2d")
        with progress.stage("Prune"), progress.stage("Candidate 1"):
            progress.note("accepted [bold]0.9[/bold]")
    lines = _lines(console)
    assert lines[0] == "[1/3] Tune: begins (next: Prune)"
    assert re.fullmatch(r"\[1/3\] Tune: done after 0\.\d s, 4/4; conv2d", lines[1])
    assert lines[2] == "[2/3] Prune: begins (next: Export)"
    assert lines[3] == "  Candidate 1: begins"
    assert lines[4].strip() == "accepted [bold]0.9[/bold]"
    assert lines[5].startswith("  Candidate 1: done after")
    assert lines[6].startswith("[2/3] Prune: done after")
    logged = [line[20:] for line in log.read_text().splitlines()]
    assert logged == lines
    assert [name for name, _ in ended] == ["Tune", "Prune"]
    assert stage.elapsed_sec == ended[0][1]


def test_updates_are_rate_limited_and_cheap():
    console = _plain_console()
    with Progress(console, interval_sec=3600) as progress, progress.stage("Work", 10**5) as stage:
        for done in range(10**5):
            stage.update(done)
    assert len(_lines(console)) == 2
    console = _plain_console()
    with Progress(console, interval_sec=0) as progress, progress.stage("Work", 4) as stage:
        stage.update(1, "a")
        stage.update(2, "b")
    lines = _lines(console)
    assert re.fullmatch(r"\[1/1\] Work: 1/4 \(25 %\), \S+ s elapsed, about \S+ s left; a", lines[1])
    assert "2/4 (50 %)" in lines[2]


def test_remaining_time_is_estimated_from_the_pace():
    with Progress(_plain_console()) as progress, progress.stage("Work", 10) as stage:
        assert stage.remaining_sec() is None
        time.sleep(0.05)
        stage.update(2)
        assert stage.remaining_sec() == pytest.approx(4 * stage.running_sec(), rel=0.2)
        stage.update(10)
        assert stage.remaining_sec() == 0


def test_failure_and_interruption_are_told_and_passed_on(tmp_path):
    console = _plain_console()
    ended = []
    progress = Progress(console, tmp_path / "log", on_stage_end=lambda *a: ended.append(a))
    with progress:
        with pytest.raises(ValueError, match="no device"), progress.stage("Measure"):
            raise ValueError("no device\nsecond line")
        with pytest.raises(KeyboardInterrupt), progress.stage("Train"):
            raise KeyboardInterrupt
    lines = _lines(console)
    assert re.search(r"Measure: failed: ValueError: no device after", lines[1])
    assert "Train: interrupted after" in lines[3]
    assert ended == []


def test_the_traceback_of_a_bug_is_in_the_log_once_and_that_of_a_users_error_is_not(tmp_path):
    class MendableError(UserError):
        pass

    def run(log, error):
        with (
            Progress(_plain_console(), tmp_path / log) as progress,
            progress.stage("Prune"),
            progress.stage("Train"),
        ):
            raise error

    with pytest.raises(RuntimeError):
        run("bug.log", RuntimeError("impossible"))
    with pytest.raises(MendableError):
        run("mendable.log", MendableError("give a path"))
    text = (tmp_path / "bug.log").read_text()
    assert text.count("Traceback") == 1 and "RuntimeError: impossible" in text
    assert "raise error" in text
    assert "Traceback" not in (tmp_path / "mendable.log").read_text()


def test_unannounced_stages_are_counted():
    console = _plain_console()
    with Progress(console, stages=["A", "B"]) as progress:
        with progress.stage("Extra"):
            pass
        with progress.stage("A"):
            pass
    assert _lines(console)[0] == "[1/3] Extra: begins (next: A)"
    assert _lines(console)[2] == "[2/3] A: begins (next: B)"


def test_a_resumed_stage_does_not_count_what_was_done_before_as_its_pace():
    with Progress(_plain_console()) as progress, progress.stage("Work", 1000) as stage:
        stage.update(900)
        time.sleep(0.05)
        stage.update(905)
        # 95 units are left at 5 units per 50 ms; counted from nothing it would be 5 ms.
        assert stage.remaining_sec() > 0.5


def test_live_display_shows_running_next_and_left(tmp_path):
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=120)
    log = tmp_path / "run.log"
    with Progress(console, log, ["Tune", "Prune", "Export"], interval_sec=0) as progress:
        with progress.stage("Tune", 4) as stage, progress.stage("conv2d"):
            stage.update(1, "round 2")
            with console.capture() as capture:
                console.print(progress._render())
            shown = capture.get()
        progress.note("a note")
    for expected in ("Tune", "1/4 (25 %)", "left", "round 2", "conv2d", "next: Prune, then 1 more"):
        assert expected in shown
    assert "round 2" in log.read_text()
    output = console.file.getvalue()
    assert "a note" in output
    assert "\x1b[?25h" in output, "the cursor is shown again"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1:00"),
        (61, "1:01"),
        (7650, "2:07:30"),
    ],
)
def test_format_duration(seconds, text):
    assert progress_lib.format_duration(seconds) == text
