r"""Collects the fastest programs of earlier runs, for new runs to start from.

    python tools/export_programs.py --runs=runs/a,runs/b --output=programs/my_board
    python tools/prune.py ... --config.tuning.warm_start=programs/my_board

The `tuning` folder of a run also works as `warm_start`; this command makes a small folder of
programs out of several.
"""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Sequence

from absl import flags

from cprune_tf.cli import command_line

_RUNS = flags.DEFINE_list("runs", None, "Run directories, or folders of a tuning database.")
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write.")
_PROGRAMS = flags.DEFINE_integer(
    "programs", 3, "Programs of each workload that differ in inner tiling.", lower_bound=1
)
_MIN_MEASURED = flags.DEFINE_integer(
    "min_measured", 12, "Leave out workloads with fewer measured programs, which were only priced."
)
_CPU = flags.DEFINE_string("cpu", "", "The processor they were measured on, for about.json.")


def run() -> None:
    """The entry point of `cprune-export-programs`."""
    flags.mark_flags_as_required(["runs", "output"])
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Writes the folder and says how much is in it."""
    del argv
    from cprune_tf.compiler.tuning.warm_start import export_programs

    folders = [pathlib.Path(name) for name in _RUNS.value]
    folders = [path / "tuning" if (path / "tuning").is_dir() else path for path in folders]
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    output = command_line.writable_folder("output", _OUTPUT.value)
    written = export_programs(
        folders,
        output,
        {"date": date, "cpu": _CPU.value},
        programs=_PROGRAMS.value,
        min_measured=_MIN_MEASURED.value,
    )
    size = sum(path.stat().st_size for path in output.iterdir())
    print(f"{written} workloads, {size / 1e6:.2f} MB: {output}")


if __name__ == "__main__":
    run()
