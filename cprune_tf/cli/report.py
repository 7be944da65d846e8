"""Writes the report of a pruning run again (report.json, report.html, figures/), and prints it.

    python tools/report.py --workdir=runs/demo

The run may be finished, killed or still running; only the files of the report are changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from cprune_tf.cli import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory.")


def run() -> None:
    """The entry point of `cprune-report`."""
    flags.mark_flags_as_required(["workdir"])
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Writes and prints the report."""
    del argv
    import rich.console

    from cprune_tf import report
    from cprune_tf.report import terminal

    written = report.write_report(_WORKDIR.value)
    console = rich.console.Console()
    console.print(terminal.render(written.report))
    console.print(f"{written.html_path}\n{written.json_path}", markup=False, highlight=False)


if __name__ == "__main__":
    run()
