r"""Compares strategies: the same model, data, device, training and requirement for each.

    python tools/compare.py --strategies=latency_budget,cprune,uniform \
        --config=configs/fashion_resnet8.py --workdir=runs/compare --max_accuracy_drop=0.01

Each strategy prunes in WORKDIR/STRATEGY, an ordinary run directory. At the end, all results are
timed in turn, and WORKDIR/comparison.html is written. A comparison that was stopped continues with
--resume, which also adds strategies; finished runs are only read.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from cprune_tf.cli import command_line, run_flags

flags.adopt_module_key_flags(run_flags)
_STRATEGIES = flags.DEFINE_list(
    "strategies",
    [],
    "The strategies, as in config.strategy.name, and the baselines tfmot_magnitude and tfmot_2_4 "
    "(they need cprune_tf[tfmot]); default: all strategies that remove filters alone.",
)


def run() -> None:
    """The entry point of `cprune-compare`."""
    flags.mark_flags_as_required(["config", "workdir"])
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Compares as the flags say and prints the table; exit code 1 if no strategy has a result."""
    del argv
    from cprune_tf import compare

    workdir = pathlib.Path(run_flags.WORKDIR.value)
    plan = compare.make_plan(
        run_flags.read(), _STRATEGIES.value, workdir, resume=run_flags.RESUME.value
    )
    if plan.unfinished():
        # The import takes seconds, so everything else was checked first.
        run_flags.import_tensorflow()
    import rich.console

    from cprune_tf.report.compared import terminal

    written = compare.compare_strategies(plan)
    console = rich.console.Console()
    console.print(terminal.render(written.comparison))
    console.print(f"\n{written.html_path}", markup=False, highlight=False, soft_wrap=True)
    if all(row.state == "failed" for row in written.comparison.rows):
        sys.exit(1)


if __name__ == "__main__":
    run()
