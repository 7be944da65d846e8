r"""Prunes a Keras model for a device, led by what the compiler measures on it.

    python tools/prune.py --config=configs/fashion_resnet8.py --workdir=runs/demo

Any field of the config can be overridden, e.g. --config.strategy.cprune.alpha=0.99 or
--config.model=my_model.keras --config.data.name=my_images.npz. A run that was stopped continues
with --resume; finished measurements and training are not repeated. --dry_run tries every stage on
a few images and ends there, within about a minute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from absl import flags

from cprune_tf import config as configs
from cprune_tf.cli import command_line, run_flags

flags.adopt_module_key_flags(run_flags)
THREADS = flags.DEFINE_list(
    "threads",
    None,
    "Instead of config.measure.num_threads and further_threads, e.g. 1,4: the first number "
    "decides; for each, TVM tunes and builds a library at the end.",
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only try all stages with as little work as possible; keep nothing."
)


def run() -> None:
    """The entry point of `cprune-prune`."""
    flags.mark_flags_as_required(["config", "workdir"])
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Prunes as the flags say and prints the report."""
    del argv
    config = _with_threads(run_flags.read())
    # The import takes seconds, so the command line was checked first.
    run_flags.import_tensorflow()
    import rich.console

    from cprune_tf import api
    from cprune_tf.report import terminal

    console = rich.console.Console()
    if DRY_RUN.value:
        api.dry_run(config.model, device=config.device, config=config, console=console)
        console.print(
            "All stages were tried, and nothing was kept. Run the same command without --dry_run."
        )
        return
    result = api.prune(
        config.model,
        device=config.device,
        config=config,
        workdir=run_flags.WORKDIR.value,
        resume=run_flags.RESUME.value,
    )
    console.print(terminal.render(result.report))
    console.print(f"\nReport: {result.workdir / 'report.html'}")


def _with_threads(config: configs.PruneConfig) -> configs.PruneConfig:
    """Returns the config with the numbers of threads of the flag, if it was given.

    Raises:
        UsageError: If the flag is no list of different positive numbers.
    """
    if THREADS.value is None:
        return config
    first, *further = command_line.thread_counts(THREADS.value)
    measure = dataclasses.replace(config.measure, num_threads=first, further_threads=tuple(further))
    return dataclasses.replace(config, measure=measure).validate()


if __name__ == "__main__":
    run()
