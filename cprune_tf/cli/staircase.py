"""Measures latency against channel count for a model's layers, and plots it.

    python tools/staircase.py --model=resnet8_fashion --layers='stack2*' --workdir=runs/staircases

Points in the workdir are not measured again, so a run that was stopped can be continued. Writes
staircases.json and staircases.png to the workdir.
"""

from __future__ import annotations

import fnmatch
import typing
from collections.abc import Callable, Sequence

from absl import flags

from cprune_tf.cli import command_line, loading, measuring

if typing.TYPE_CHECKING:
    from cprune_tf.graph import ChannelGraph, ChannelGroup
    from cprune_tf.runs import Stage

flags.adopt_module_key_flags(measuring)
flags.adopt_module_key_flags(loading)
_LAYERS = flags.DEFINE_list("layers", ["*"], "Patterns of layers whose channels are measured.")
_POINTS = flags.DEFINE_integer("points", 12, "Most channel counts measured for each group.")
_NOISE = flags.DEFINE_float(
    "noise", 0.05, "Smaller relative differences do not count as steps.", lower_bound=0.0
)
_SMALLEST = flags.DEFINE_float(
    "smallest",
    0.2,
    "The smallest fraction of a group's channels to measure.",
    lower_bound=0.0,
    upper_bound=1.0,
)


def run() -> None:
    """The entry point of `cprune-staircase`."""
    measuring.run_measuring(staircases)


def choose_groups(channels: ChannelGraph, patterns: Sequence[str]) -> list[ChannelGroup]:
    """Returns the prunable groups whose channels are made by a layer that matches a pattern.

    Args:
        channels: The analysed model.
        patterns: fnmatch patterns of layer names.

    Returns:
        The groups, in topological order.

    Raises:
        UsageError: No group matches; the message lists the layers that could.
    """
    chosen = [
        group
        for group in channels.prunable
        if any(fnmatch.fnmatch(layer, p) for layer in group.producers for p in patterns)
    ]
    if not chosen:
        producers = [layer for group in channels.prunable for layer in group.producers]
        raise command_line.UsageError(
            f"--layers={','.join(patterns)} matches no layer with prunable channels; there are: "
            f"{', '.join(producers) or 'none'}."
        )
    return chosen


def staircases() -> None:
    """Tunes the model, samples the staircases, and prints and writes them."""
    from cprune_tf import graph
    from cprune_tf.latency.sampling import SamplingConfig, sample_staircase
    from cprune_tf.latency.staircase import save_staircases
    from cprune_tf.report import latency_figures, latency_tables
    from cprune_tf.runs import Progress

    model, workdir = loading.load_for_compiling(measuring.MODEL.value), measuring.workdir()
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
                    # The opened model has its own analysis, with groups of the same names.
                    opened_group = opened.channels[group.name]
                    staircases.append(
                        sample_staircase(lab, opened_group, config, on_point=_show(sampling))
                    )
                # Saved after each group, so that a stopped run leaves usable staircases.
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
