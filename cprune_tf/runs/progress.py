"""Says what a long run is doing, what comes next and how long it may take.

On a terminal a live display is kept at the bottom of the screen; elsewhere, and in `run.log`,
the same is told in plain lines.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import rich.console
import rich.live
import rich.progress_bar
import rich.spinner
import rich.table
import rich.text


class Stage:
    """A stretch of work that is under way; made by `Progress.stage`.

    Attributes:
        name: What it does.
        total: Units of work in all, or None where not known.
        done: Units done so far.
        text: What is being done just now.
        elapsed_sec: Its duration, once it has ended.
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

    def update(self, done: int | None = None, text: str | None = None) -> None:
        """Tells how far the stage is; cheap enough for an inner loop.

        Args:
            done: Units done so far, where they are counted.
            text: What is being done just now.
        """
        if done is not None:
            self.done = done
        if text is not None:
            self.text = text
        self._changed(self)

    def progress(self, done: int, planned: int, text: str) -> None:
        """Tells how far the stage is, where the work itself knows how much it is.

        Args:
            done: Units done so far.
            planned: Units in all.
            text: What is being done just now.
        """
        self.total = planned
        self.update(done, text)

    def running_sec(self) -> float:
        """Seconds since it began, or its duration once it has ended."""
        if self.elapsed_sec is not None:
            return self.elapsed_sec
        return time.monotonic() - self._started_sec

    def remaining_sec(self) -> float | None:
        """Seconds to its end at the pace so far; None where that is not known."""
        if not self.total or self.done <= 0:
            return None
        return self.running_sec() * max(self.total - self.done, 0) / self.done

    def end(self) -> None:
        """Fixes its duration."""
        self.elapsed_sec = time.monotonic() - self._started_sec

    def describe(self) -> str:
        """One line: how far, how long, how long still, what just now."""
        parts = []
        if self.total:
            parts.append(f"{self.done}/{self.total} ({100 * self.done / self.total:.0f} %)")
        parts.append(f"{format_duration(self.running_sec())} elapsed")
        remaining = self.remaining_sec()
        if remaining is not None:
            parts.append(f"about {format_duration(remaining)} left")
        return ", ".join(parts) + (f"; {self.text}" if self.text else "")


class Progress:
    """Progress of a whole run, as a context manager.

    Stages follow one another; a stage begun inside another one is a part of it. Work may add
    stages that were not announced.
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
        """Begins silently.

        Args:
            console: Where to show it (standard output).
            log_path: File that the plain lines are appended to, or None.
            stages: Names of the stages to come, in order.
            interval_sec: Least time between two plain lines about one stage.
            on_stage_end: Called with a stage's name and duration in seconds when it has ended
                without an error; not called for the parts of a stage.
        """
        self._console = console or rich.console.Console()
        self._planned = list(stages)
        self._interval_sec = interval_sec
        self._on_stage_end = on_stage_end
        self._open: list[Stage] = []
        self._ended: list[Stage] = []
        self._log: IO[str] | None = None
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
        """Begins a stage; it ends with the block.

        Args:
            name: What it does: one of the announced names, or a new one.
            total: Units of work in it, where they are counted.

        Yields:
            The stage, to be told how far it is.
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
        """Tells how far the innermost stage is, if one is open; see `Stage.progress`."""
        if self._open:
            self._open[-1].progress(done, planned, text)

    def note(self, text: str) -> None:
        """Tells something worth keeping, in a line of its own.

        Args:
            text: Plain text.
        """
        self._say(f"{'  ' * len(self._open)}{text}")

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
        counted = f", {stage.done}/{stage.total}" if stage.total else ""
        return counted + (f"; {stage.text}" if stage.text else "")

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
        later = f", then {len(planned) - 1} more" if len(planned) > 1 else ""
        return f"{total} in all · next: {planned[0]}{later}"


def _pulse(stage: Stage, depth: int) -> rich.console.RenderableType:
    # Spinner and name share a cell; the clock drives the frame, so nothing has to be kept.
    spinner = rich.spinner.Spinner("dots")
    frame: Any = spinner.frames[int(stage.running_sec() * 10) % len(spinner.frames)]
    return rich.text.Text(f"{'  ' * depth}{frame} {stage.name}", style="bold" if not depth else "")


def _bar(stage: Stage) -> rich.console.RenderableType:
    if not stage.total:
        return rich.text.Text("")
    return rich.progress_bar.ProgressBar(total=stage.total, completed=stage.done, width=24)


def format_duration(seconds: float) -> str:
    """Writes a duration for people.

    Args:
        seconds: Not negative.

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
