"""Measures latency against channel count for a model's layers, and plots it.

    python tools/staircase.py --model=resnet8_fashion --layers='stack2*' --workdir=runs/staircases

What is already measured in the workdir is not measured again, so a run that was stopped goes on.
Writes staircases.json and staircases.png there.
"""

from __future__ import annotations

import fnmatch
import typing
from collections.abc import Callable, Sequence

from absl import flags

from cprune_tf.cli import command_line, measuring

if typing.TYPE_CHECKING:
    from cprune_tf.graph import ChannelGraph, ChannelGroup
    from cprune_tf.runs import Stage

flags.adopt_module_key_flags(measuring)
_LAYERS = flags.DEFINE_list("layers", ["*"], "Patterns of layers whose channels are looked at.")
_POINTS = flags.DEFINE_integer("points", 12, "Channel counts measured for each group at most.")
_NOISE = flags.DEFINE_float(
    "noise", 0.05, "Relative differences below are no steps.", lower_bound=0.0
)
_SMALLEST = flags.DEFINE_float(
    "smallest",
    0.2,
    "The least fraction of its channels to look at.",
    lower_bound=0.0,
    upper_bound=1.0,
)


def run() -> None:
    """The entry point of `cprune-staircase`."""
    measuring.run_measuring(staircases)


def choose_groups(channels: ChannelGraph, patterns: Sequence[str]) -> list[ChannelGroup]:
    """The prunable groups that some named layer makes channels for.

    Args:
        channels: All groups.
        patterns: fnmatch patterns of layer names.

    Raises:
        UsageError: If there is none; says which there are.
    """
    chosen = [
        group
        for group in channels.prunable
        if any(fnmatch.fnmatch(layer, one) for layer in group.producers for one in patterns)
    ]
    if not chosen:
        makers = [layer for group in channels.prunable for layer in group.producers]
        raise command_line.UsageError(
            f"--layers={','.join(patterns)} matches no layer with prunable channels; there are: "
            f"{', '.join(makers) or 'none'}."
        )
    return chosen


def staircases() -> None:
    """Tunes, samples, prints."""
    from cprune_tf import graph
    from cprune_tf.cli.loading import load_for_compiling
    from cprune_tf.latency.sampling import SamplingConfig, sample_staircase
    from cprune_tf.latency.staircase import save_staircases
    from cprune_tf.report import latency_figures, latency_tables
    from cprune_tf.runs import Progress

    model, workdir = load_for_compiling(measuring.MODEL.value), measuring.workdir()
    if _POINTS.value < 2:
        raise command_line.UsageError(f"--points is {_POINTS.value}; expected at least 2.")
    config = SamplingConfig(
        max_points=_POINTS.value,
        first_points=min(7, _POINTS.value),
        noise=_NOISE.value,
        smallest=_SMALLEST.value,
    )
    chosen = choose_groups(graph.analyze(model, measuring.PROTECT.value), _LAYERS.value)
    console = command_line.make_console()
    stages = ("tune", *(f"staircase of {group.name}" for group in chosen))
    staircases = []
    with (
        Progress(console, workdir / "staircase.log", stages) as progress,
        measuring.open_model(model) as opened,
    ):
        with progress.stage(stages[0]) as tuning:
            opened.tune(measuring.TRIALS.value, tuning.progress)
        with opened.lab() as lab:
            for name, group in zip(stages[1:], chosen, strict=True):
                with progress.stage(name, config.max_points) as sampling:
                    own = opened.channels[group.name]
                    staircases.append(sample_staircase(lab, own, config, on_point=_show(sampling)))
                # After each group: what a stopped run leaves can be used.
                save_staircases(workdir / "staircases.json", staircases)
        device = opened.device.info()
    title = f"{model.name} on {device.cpu_name}, {measuring.THREADS.value} thread(s)"
    latency_figures.write_staircase_figure(workdir / "staircases.png", staircases, title)
    console.print(latency_tables.staircase_table(staircases))
    console.print(f"Written: {workdir / 'staircases.json'}, {workdir / 'staircases.png'}")


def _show(stage: Stage) -> Callable[[int, int], None]:
    return lambda done, count: stage.update(done, f"{count} channels")


if __name__ == "__main__":
    run()
