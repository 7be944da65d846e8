"""The files that a run delivers, and their check against each other on the device."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from cprune_tf import litert
from cprune_tf.cross_check import check_deployments, check_pixel_file
from cprune_tf.data import ImageData
from cprune_tf.deployment import Deployment, further_name, write_deploy_folder
from cprune_tf.litert.pixels import taking_pixels
from cprune_tf.pipeline.context import TFLITE, RunContext
from cprune_tf.runs import events
from cprune_tf.runs.results import ExportedFile, file_label
from cprune_tf.runtimes import open_runtime
from cprune_tf.runtimes.base import Progress
from cprune_tf.storage import files
from cprune_tf.strategies.registry import registered_strategies
from cprune_tf.strategies.workbench import CurrentModel, Workbench

_PIXEL_FILE = "deploy/model_pixels.tflite"


def export(
    context: RunContext, bench: Workbench, first: CurrentModel, final: Any
) -> tuple[Deployment, Deployment]:
    """Tunes the original and the result with equal effort and writes the files to deploy.

    For TVM, that is done once for each number of threads.

    Args:
        context: The run.
        bench: The workbench, whose runtime builds.
        first: The original, tuned.
        final: The Keras model to deliver.

    Returns:
        The files of the original and of the result; made before if the run was resumed.
    """
    run, runtime = context.run, bench.runtime
    original_file, final_file = (
        run.path(f"{name}{runtime.suffix}") for name in ("original", "final")
    )
    has_tvm = runtime.name == "tvm"
    deployments = (
        _deployment(context, "original", first.model, original_file),
        _deployment(context, "pruned", final, final_file),
    )
    if run.journal.last(events.Exported) is not None:
        return deployments
    prepared = runtime.prepare(final)
    trials = context.config.tuning.final_trials_per_task
    with context.progress.stage("Tune the result") as stage:
        for runtime_model in (prepared, first.prepared):
            runtime.tune(runtime_model, trials, stage.progress)
        if has_tvm:
            _build_further_libraries(context, deployments, stage.progress)
    with context.progress.stage("Export"):
        runtime.build(prepared, final_file)
        runtime.build(first.prepared, original_file)
        if has_tvm:
            run.write_bytes("final.tflite", litert.convert(final))
        for one in deployments:
            for precision, other in one.others:
                content = _tflite(context, one.keras_model, precision)
                files.write_bytes(pathlib.Path(other), content)
        threads = context.config.measure.num_threads
        target = context.device.target(threads) if has_tvm else None
        is_classifier = isinstance(context.given.data, ImageData)
        write_deploy_folder(
            run,
            deployments[-1],
            context.config.data if is_classifier else None,
            target,
            context.given.images.class_names if is_classifier else (),
        )
        if context.config.deploy.pixel_input:
            run.write_bytes(_PIXEL_FILE, _tflite_taking_pixels(context, final))
    further = (
        pathlib.Path(path).name for one in deployments[::-1] for _, path in one.further_libraries
    )
    built = (final_file.name, "final.tflite", original_file.name, "original.tflite", *further)
    names = tuple(dict.fromkeys(("final.keras", *built)))
    exported = tuple(
        ExportedFile(name, name, run.path(name).stat().st_size)
        for name in ("models/iter_0000.keras", *names)
    )
    run.journal.append(events.Exported(exported))
    return deployments


def _deployment(context: RunContext, name: str, model: Any, built: pathlib.Path) -> Deployment:
    """Describes the files of a model; `built` is what the runtime builds."""
    config, tflite = context.config, built.with_suffix(TFLITE)
    library = None if built == tflite else built
    precision = config.precision if library is None else "float32"
    others = tuple(
        (other, built.with_name(f"{built.stem}_{other}{TFLITE}"))
        for other in config.compared_precisions
        if other != precision
    )
    further: tuple[tuple[int, pathlib.Path], ...] = ()
    if library is not None:
        counts = config.measure.further_threads
        further = tuple((n, library.with_name(further_name(library, n))) for n in counts)
    return Deployment(
        name,
        model,
        library,
        tflite,
        precision,
        config.weights,
        others,
        config.measure.num_threads,
        further,
    )


def _build_further_libraries(
    context: RunContext, deployments: tuple[Deployment, ...], progress: Progress
) -> None:
    """Tunes and builds the models anew for each further number of threads.

    A program's latency holds for one number of threads, so each has a database of its own.
    """
    config = context.config
    trials = max(config.tuning.trials_per_task, config.tuning.final_trials_per_task)
    for count in config.measure.further_threads:

        def describe(done: int, planned: int, text: str, count: int = count) -> None:
            progress(done, planned, f"{file_label('tvm', config.weights, count)}: {text}")

        options = dataclasses.replace(
            context.runtime_options,
            num_threads=count,
            workdir=context.run.tuning_dir / f"{count}_threads",
        )
        with open_runtime(config.runtime, context.device, options) as runtime:
            for one in deployments[::-1]:
                path = dict(one.further_libraries)[count]
                model = runtime.prepare(one.keras_model)
                runtime.tune(model, trials, describe)
                runtime.build(model, path)


def _tflite(context: RunContext, model: Any, precision: str) -> bytes:
    """Makes the `.tflite` file of a model that is compared with what is deployed."""
    int8 = context.given.int8
    if precision == "int8" and int8 is not None:
        return int8.quantize(model)
    return litert.convert(model, precision=precision)


def _tflite_taking_pixels(context: RunContext, model: Any) -> bytes:
    """Makes the `.tflite` file that preprocesses, at the precision of the deployed one."""
    config, int8 = context.config, context.given.int8
    whole = taking_pixels(model, config.data.mean, config.data.std)
    if config.runtime == "tvm":
        return litert.convert(whole)
    if config.precision == "int8" and int8 is not None:
        return int8.quantize_taking_pixels(whole)
    return litert.convert(whole, precision=config.precision)


def cross_check(context: RunContext, deployments: tuple[Deployment, ...]) -> None:
    """Compares the delivered files on the device and journals what was found, once in a run.

    Args:
        context: The run.
        deployments: The files of `export`.
    """
    if context.journal.last(events.CrossChecked) is not None:
        return
    data = context.given.data
    strategy = registered_strategies()[context.config.strategy.name].strategy
    with context.progress.stage("Cross-check"):
        checked = check_deployments(
            deployments,
            data.test_images,
            data.test_labels if isinstance(data, ImageData) else None,
            context.device,
            measure=context.config.measure,
            thread_counts=(1, *context.config.measure.thread_counts, context.device.num_cores()),
            metric=context.given.hooks.metric.name,
            score=context.given.score_outputs,
            expects_speedup=strategy.aims_at_latency,
        )
        if context.config.deploy.pixel_input:
            problems = check_pixel_file(
                context.run.path(_PIXEL_FILE),
                deployments[-1],
                context.given.images.test_images,
                context.config.data,
                context.device,
            )
            checked = dataclasses.replace(checked, problems=(*checked.problems, *problems))
        context.journal.append(events.CrossChecked.of(checked))
    for problem in checked.problems:
        context.progress.note(f"Problem: {problem}")
