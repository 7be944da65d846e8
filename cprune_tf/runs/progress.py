"""Shows what a long run is doing, what comes next and how long it may take.

On a terminal, a live display stays at the bottom of the screen. Other outputs, and `run.log`, get
the same information as plain lines.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import rich.console
import rich.live
import rich.progress_bar
import rich.spinner
import rich.table
import rich.text

from cprune_tf.errors import UserError


class Stage:
    """A stage of a run; made by `Progress.stage`.

    Attributes:
        name: The stage's name.
        total: Total units of work; None if unknown.
        done: Units of work done so far.
        text: Description of the current work.
        elapsed_sec: The stage's duration; None until it has ended.
        last_line_sec: Monotonic time of the last plain line about the stage.
    """

    def __init__(self, name: str, total: int | None, changed: Callable[[Stage], None]) -> None:
        self.name = name
        self.total = total
        self.done = 0
        self.text = ""
        self.elapsed_sec: float | None = None
        self._changed = changed
        self._started_sec = time.monotonic()
        self.last_line_sec = self._started_sec
        # Work done and time of the first report; a resumed stage does not begin with nothing done.
        self._first_report: tuple[int, float] | None = None

    def update(self, done: int | None = None, text: str | None = None) -> None:
        """Reports the stage's progress; cheap enough for an inner loop.

        Args:
            done: Units of work done so far; None leaves the number unchanged.
            text: Description of the current work; None leaves the text unchanged.
        """
        if done is not None:
            self.done = done
            if done > 0 and self._first_report is None:
                self._first_report = (done, self.running_sec())
        if text is not None:
            self.text = text
        self._changed(self)

    def progress(self, done: int, planned: int, text: str) -> None:
        """Reports the stage's progress together with its total, which may have changed.

        Args:
            done: Units of work done so far.
            planned: Total units of work.
            text: Description of the current work.
        """
        self.total = planned
        self.update(done, text)

    def running_sec(self) -> float:
        """Returns the seconds since the stage began; its duration if it has ended."""
        if self.elapsed_sec is not None:
            return self.elapsed_sec
        return time.monotonic() - self._started_sec

    def remaining_sec(self) -> float | None:
        """Estimates the seconds to the stage's end from its pace so far; None if unknown.

        The pace is that since the first report, once there is another one.
        """
        if not self.total or self._first_report is None:
            return None
        done_before, since_sec = self._first_report
        if self.done <= done_before:
            done_before, since_sec = 0, 0.0
        pace_sec = (self.running_sec() - since_sec) / max(self.done - done_before, 1)
        return pace_sec * max(self.total - self.done, 0)

    def end(self) -> None:
        """Ends the stage: sets `elapsed_sec`."""
        self.elapsed_sec = time.monotonic() - self._started_sec

    def describe(self) -> str:
        """Returns one line: work done, time elapsed, time left, and the current work."""
        parts = []
        if self.total:
            parts.append(f"{self.done}/{self.total} ({100 * self.done / self.total:.0f} %)")
        parts.append(f"{format_duration(self.running_sec())} elapsed")
        remaining = self.remaining_sec()
        if remaining is not None:
            parts.append(f"about {format_duration(remaining)} left")
        return ", ".join(parts) + (f"; {self.text}" if self.text else "")


class Progress:
    """The progress of a whole run, as a context manager.

    Stages follow one another. A stage that begins inside another stage is a part of it. Stages that
    were not announced may be added.
    """

    def __init__(
        self,
        console: rich.console.Console | None = None,
        log_path: str | os.PathLike[str] | None = None,
        stages: Sequence[str] = (),
        *,
        interval_sec: float = 10.0,
        on_stage_end: Callable[[str, float], None] | None = None,
    ) -> None:
        """Opens the log; shows nothing until the context is entered or a stage begins.

        Args:
            console: The console to write to; None for standard output.
            log_path: A file to append the plain lines to, or None.
            stages: Names of the announced stages, in order.
            interval_sec: Minimum time in seconds between two plain lines about the same stage.
            on_stage_end: Called with (stage name, duration in seconds) when a stage has ended
                without an error; not called for stages inside other stages.
        """
        self._console = console or rich.console.Console()
        self._planned = list(stages)
        self._interval_sec = interval_sec
        self._on_stage_end = on_stage_end
        self._open: list[Stage] = []
        self._ended: list[Stage] = []
        self._log: IO[str] | None = None
        self._logged_error: Exception | None = None
        if log_path is not None:
            pathlib.Path(log_path).parent.mkdir(parents=True, exist_ok=True)
            self._log = open(log_path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._live: rich.live.Live | None = None
        self._started_sec = time.monotonic()

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = rich.live.Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._log is not None:
            self._log.close()
            self._log = None

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """Begins a stage, which ends when the block ends.

        Args:
            name: The stage's name: one of the announced names or a new one.
            total: Total units of work; None if unknown.

        Yields:
            The stage, which takes reports of its progress.
        """
        stage = Stage(name, total, self._changed)
        self._open.append(stage)
        if len(self._open) == 1 and name in self._planned:
            self._planned.remove(name)
        self._say(f"{self._label(stage)}: begins{self._next_text(stage)}")
        ending = "interrupted"
        try:
            yield stage
            ending = "done"
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0]
            ending = f"failed: {type(error).__name__}: {first_line}"
            self._log_traceback(error)
            raise
        finally:
            stage.end()
            label = self._label(stage)
            self._open.remove(stage)
            if not self._open:
                self._ended.append(stage)
            duration = format_duration(stage.running_sec())
            self._say(f"{label}: {ending} after {duration}{self._outcome(stage)}")
        if not self._open and self._on_stage_end is not None:
            self._on_stage_end(name, stage.running_sec())

    def innermost(self, done: int, planned: int, text: str) -> None:
        """Reports the progress of the innermost open stage, if any; see `Stage.progress`."""
        if self._open:
            self._open[-1].progress(done, planned, text)

    def note(self, text: str) -> None:
        """Writes a line of its own to the console and the log.

        Args:
            text: Plain text, without markup.
        """
        self._say(f"{'  ' * len(self._open)}{text}")

    def _log_traceback(self, error: Exception) -> None:
        """Writes the traceback of a bug to the log; what a user can mend needs none."""
        if self._log is None or isinstance(error, UserError) or error is self._logged_error:
            return
        self._logged_error = error  # the stages around this one fail with the same error
        self._log.write("".join(traceback.format_exception(error)))

    def _changed(self, stage: Stage) -> None:
        now = time.monotonic()
        if now - stage.last_line_sec < self._interval_sec:
            return
        stage.last_line_sec = now
        self._say(f"{self._label(stage)}: {stage.describe()}", only_plain=True)

    def _label(self, stage: Stage) -> str:
        depth = self._open.index(stage)
        if depth:
            return f"{'  ' * depth}{stage.name}"
        position = len(self._ended) + 1
        return f"[{position}/{position + len(self._planned)}] {stage.name}"

    def _next_text(self, stage: Stage) -> str:
        if self._open[0] is not stage or not self._planned:
            return ""
        return f" (next: {self._planned[0]})"

    def _outcome(self, stage: Stage) -> str:
        count = f", {stage.done}/{stage.total}" if stage.total else ""
        return count + (f"; {stage.text}" if stage.text else "")

    def _say(self, text: str, only_plain: bool = False) -> None:
        now = datetime.datetime.now()
        if self._log is not None:
            self._log.write(f"{now:%Y-%m-%d %H:%M:%S} {text}\n")
        if self._live is None or not only_plain:
            self._console.print(
                f"{now:%H:%M:%S} {text}", markup=False, highlight=False, soft_wrap=True
            )

    def _render(self) -> rich.console.RenderableType:
        rows = rich.table.Table.grid(padding=(0, 1))
        for depth, stage in enumerate(tuple(self._open)):
            rows.add_row(_pulse(stage, depth), _bar(stage), rich.text.Text(stage.describe()))
        return rich.console.Group(rows, rich.text.Text(self._remaining_text(), style="dim"))

    def _remaining_text(self) -> str:
        total = format_duration(time.monotonic() - self._started_sec)
        planned = tuple(self._planned)
        if not planned:
            return f"{total} in all"
        others = f", then {len(planned) - 1} more" if len(planned) > 1 else ""
        return f"{total} in all · next: {planned[0]}{others}"


def _pulse(stage: Stage, depth: int) -> rich.console.RenderableType:
    # The clock chooses the spinner's frame, so no spinner has to be kept between renderings.
    spinner = rich.spinner.Spinner("dots")
    frame: Any = spinner.frames[int(stage.running_sec() * 10) % len(spinner.frames)]
    return rich.text.Text(f"{'  ' * depth}{frame} {stage.name}", style="bold" if not depth else "")


def _bar(stage: Stage) -> rich.console.RenderableType:
    if not stage.total:
        return rich.text.Text("")
    return rich.progress_bar.ProgressBar(total=stage.total, completed=stage.done, width=24)


def format_duration(seconds: float) -> str:
    """Formats a duration for people.

    Args:
        seconds: The duration, not negative.

    Returns:
        "0.4 s", "12 s", "3:05" (minutes), "2:07:30" (hours).
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
