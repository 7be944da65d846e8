"""Shows where a model's latency lies: tasks, layers, channel groups, roofline, runtime overhead.

    python tools/profile.py --model=resnet8_fashion --workdir=runs/profile
    python tools/profile.py --model=resnet8_fashion --workdir=runs/profile_int8 --runtime=litert \
        --precision=int8

Tasks without programs in the workdir are tuned first. LiteRT tunes nothing, and has no roofline.
Writes profile.json and profile.png to the workdir.
"""

from __future__ import annotations

from absl import flags

from cprune_tf.cli import command_line, loading, measuring

flags.adopt_module_key_flags(measuring)
flags.adopt_module_key_flags(loading)


def run() -> None:
    """The entry point of `cprune-profile`."""
    measuring.run_measuring(profile)


def profile() -> None:
    """Tunes and measures the model, and prints and writes its profile."""
    from cprune_tf.compiler.roofline import measure_roofline, require_cpu
    from cprune_tf.config import MeasureConfig
    from cprune_tf.latency.profile import profile_model
    from cprune_tf.report import latency_figures, latency_tables
    from cprune_tf.runs import Progress
    from cprune_tf.storage import files

    model, workdir = loading.load_for_compiling(measuring.MODEL.value), measuring.workdir()
    num_threads = measuring.THREADS.value
    console = command_line.make_console()
    has_roofline = measuring.RUNTIME.value == "tvm"
    limits = ("measure the device's limits",) if has_roofline else ()
    stages = ("tune", *limits, "time tasks and whole model")
    with (
        Progress(console, workdir / "profile.log", stages) as progress,
        measuring.open_model(model) as opened,
    ):
        roofline = None
        if has_roofline:
            require_cpu(opened.device)
        with progress.stage(stages[0]) as tuning:
            opened.tune(measuring.TRIALS.value, tuning.progress)
        if has_roofline:
            with progress.stage(stages[1]):
                roofline = measure_roofline(opened.device, num_threads)
        with progress.stage(stages[-1]) as timing:
            profile = profile_model(
                opened,
                roofline,
                MeasureConfig(num_threads=num_threads),
                on_round=lambda done, total: timing.progress(done, total, ""),
            )
        device = opened.device.info()
    content = {
        "model": measuring.MODEL.value,
        "device": device.cpu_name,
        "runtime": measuring.RUNTIME.value,
        "precision": measuring.PRECISION.value,
        "trials_per_task": measuring.TRIALS.value,
        **profile.to_json(),
    }
    files.write_json(workdir / "profile.json", content)
    title = f"{model.name}: {profile.whole_ms:.3g} ms on {device.cpu_name}"
    latency_figures.write_profile_figure(workdir / "profile.png", profile, title)
    console.print(latency_tables.profile_table(profile))
    console.print(f"Written: {workdir / 'profile.json'}, {workdir / 'profile.png'}")


if __name__ == "__main__":
    run()
