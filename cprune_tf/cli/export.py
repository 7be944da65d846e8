r"""Shows the models that a run accepted, and exports one of them.

    python tools/export.py --workdir=runs/demo
    python tools/export.py --workdir=runs/demo --point=2 --output=smaller

A point that is not the run's result has had short-term training only: train it further before it
is shipped.
"""

from __future__ import annotations

import pathlib
import typing
from collections.abc import Sequence

from absl import flags

from cprune_tf.cli import command_line

if typing.TYPE_CHECKING:
    from cprune_tf.accuracy import Metric
    from cprune_tf.front import Point

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory.")
_POINT = flags.DEFINE_integer(
    "point", None, "Number of the model to export; without it, all are shown.", lower_bound=0
)
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write to; needed with --point.")


def run() -> None:
    """The entry point of `cprune-export`."""
    flags.mark_flags_as_required(["workdir"])
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Shows the points, or exports one."""
    del argv
    workdir = pathlib.Path(_WORKDIR.value)
    if (_POINT.value is None) != (_OUTPUT.value is None):
        raise command_line.UsageError(
            f"--point is {_POINT.value} and --output is {_OUTPUT.value!r}; expected both, or "
            "neither to see what there is."
        )
    from cprune_tf import front

    if _POINT.value is None:
        _show(front.read_front(workdir), front.read_metric(workdir))
        return
    command_line.import_tensorflow_quietly()
    output = command_line.writable_folder("output", _OUTPUT.value)
    for name in front.export_point(workdir, _POINT.value, output):
        print(output / name)


def _show(points: Sequence[Point], metric: Metric) -> None:
    import rich.console
    import rich.table

    table = rich.table.Table("point", "speed-up", "latency", metric.word, "parameters", "")
    for point in points:
        remark = "the result" if point.is_result else "dominated" if point.is_dominated else ""
        table.add_row(
            str(point.number),
            f"{point.speedup:.3g}x",
            f"{point.latency_ms:.4g} ms",
            metric.text(point.accuracy),
            f"{point.params:,}",
            remark,
        )
    rich.console.Console().print(table)


if __name__ == "__main__":
    run()
