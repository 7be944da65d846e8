"""Opens a run: checks what a caller gave, then opens the device and the run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

from cprune_tf import config as configs

if TYPE_CHECKING:
    import keras
    import rich.console
    import tensorflow as tf

    from cprune_tf.accuracy import Metric
    from cprune_tf.data import Data
    from cprune_tf.data.image_files import FileChecks
    from cprune_tf.devices import Device
    from cprune_tf.pipeline import PipelineInput, RunContext
    from cprune_tf.runs import Progress, RunDirectory
    from cprune_tf.strategies.workbench.reweighting import Sparsifier
    from cprune_tf.task import Task
    from cprune_tf.training.cluster import TrainingCluster
    from cprune_tf.training.deployed import Int8Judge
    from cprune_tf.training.judging import Judged
    from cprune_tf.training.scoring import Scorer

Train = Callable[[Any], None]
Evaluate = Callable[[Any], float]


@dataclasses.dataclass(frozen=True, eq=False)
class RunArguments:
    """What a caller gave; see `prune`."""

    model: Any
    train_data: Any
    validation_data: Any
    test_data: Any
    device: str | Device
    settings: configs.PruneConfig
    short_term_train: Train | None
    long_term_train: Train | None
    evaluate: Evaluate | None
    sparsifier: Sparsifier | None
    console: rich.console.Console | None

    @property
    def own_training(self) -> bool:
        """Whether the caller's own functions do all training."""
        return bool(self.short_term_train and self.long_term_train)


@contextlib.contextmanager
def opened_run(given: RunArguments, root: pathlib.Path, resume: bool) -> Iterator[RunContext]:
    """Checks model and data, then opens the device and the run directory.

    Args:
        given: What the caller gave.
        root: The run directory.
        resume: Whether to continue the run that the directory holds.

    Yields:
        The run, ready for `pipeline.Pipeline`.

    Raises:
        UserError: See `api.prune`.
    """
    _check_confidence(given.settings, given.evaluate)
    from cprune_tf.graph import any_names

    with any_names(), _opened_run(given, root, resume) as context:
        yield context


@contextlib.contextmanager
def _opened_run(given: RunArguments, root: pathlib.Path, resume: bool) -> Iterator[RunContext]:
    """See `opened_run`."""
    settings, console = given.settings, given.console
    from cprune_tf import models, pipeline
    from cprune_tf.runs import Progress, RunDirectory
    from cprune_tf.training import distribution

    keras_model = given.model
    if is_name(keras_model):
        keras_model = models.load_model(
            os.fspath(keras_model),
            unsafe_lambda=settings.unsafe_lambda,
            compiled=not settings.strategy.judged_by.is_rank,
        )
    keras_model, fixed = models.with_fixed_inputs(keras_model, settings.input_shape)
    own_compile = given.train_data is not None and bool(getattr(keras_model, "compiled", False))
    _check_distribute(settings, own_compile, given.own_training)
    _check_ray(settings, own_compile or given.short_term_train is not None)
    replicas = distribution.open_strategy(settings.training.distribute)
    task, files = _checked_task(given, keras_model, own_compile)
    with (
        _cluster(settings) as cluster,
        opened_device(given.device, settings.measure.cores) as opened,
        RunDirectory.open(root, settings, resume=resume) as run,
        Progress(
            console,
            run.log_path,
            pipeline.remaining_stages(run),
            on_stage_end=lambda name, sec: _journal_stage(run, name, sec),
        ) as progress,
    ):
        if fixed:
            progress.note(fixed)
        if settings.ray_address and cluster is None:
            progress.note(
                f"config.ray_address has no effect: the trainings of {settings.strategy.name} "
                "depend on each other, and run in this process."
            )
        pipeline_input = _pipeline_input(
            given, task, files, own_compile, replicas, cluster, run, progress
        )
        yield pipeline.RunContext(settings, run, opened, progress, pipeline_input)


def _checked_task(
    given: RunArguments, model: keras.Model, own_compile: bool
) -> tuple[Task, FileChecks]:
    """Loads and checks the data; returns what was found out about image files, too."""
    from cprune_tf import task
    from cprune_tf.data import ImageData
    from cprune_tf.data.image_files import FileChecks
    from cprune_tf.data.suggested_shape import require_fixed_inputs
    from cprune_tf.runs import Progress
    from cprune_tf.training.compiled import check_compiled

    settings, own_score = given.settings, given.evaluate is not None
    some_data = given.train_data if given.validation_data is None else given.validation_data
    require_fixed_inputs(model, settings.data, some_data)
    with Progress(given.console) as checking, checking.stage("Check the data") as stage:
        files = FileChecks(stage.progress)
        metric = task.metric_of(settings, model, own_score=own_score)
        data = task.load_data(
            settings, metric, model, given.train_data, given.validation_data, given.test_data,
            files, stage.progress,
        )  # fmt: skip
        scorer, remark = None, ""
        if not isinstance(data, ImageData):
            judges_only = given.train_data is None and given.validation_data is not None
            sparsifies = given.sparsifier is not None
            task.check_task(
                settings, data, given.own_training, judges_only, sparsifies, own_score=own_score
            )
            model, remark, scorer = task.prepare_task(
                model, data, metric, given.own_training, own_score=own_score
            )
        elif own_compile and not given.own_training:
            check_compiled(model, data)
        teacher = task.load_teacher(settings, model, data, own_compile or given.own_training)
    return task.Task(model, data, metric, scorer, remark, teacher), files


def _pipeline_input(
    given: RunArguments,
    task: Task,
    files: FileChecks,
    own_compile: bool,
    replicas: tf.distribute.Strategy | None,
    cluster: TrainingCluster | None,
    run: RunDirectory,
    progress: Progress,
) -> PipelineInput:
    """What the stages work on: the model, the images that decide, and the functions."""
    from cprune_tf.pipeline import PipelineInput
    from cprune_tf.task import check_teacher, ignored_fields
    from cprune_tf.training.deployed import Int8Judge
    from cprune_tf.training.plausibility import scaling_note

    settings, scorer = given.settings, task.scorer
    judged = _judged(settings, task.data, task.model, given.evaluate, run, progress, files)
    data = judged.data
    ignored = ignored_fields(settings) if own_compile and not given.own_training else ""
    for note in (*data.notes, task.remark, scaling_note(task.model, data), ignored):
        if note:
            progress.note(note)
    judge = Int8Judge(settings, data, scorer) if settings.makes_int8 else None
    teacher = task.model
    if task.teacher is not None:
        teacher = task.teacher
        check_teacher(settings, teacher, dataclasses.replace(task, data=data))
    hooks = _hooks(
        settings, data, teacher, own_compile, replicas, cluster, run, progress.innermost,
        given.short_term_train, given.long_term_train, given.evaluate, judge, task.metric, scorer,
    )  # fmt: skip
    return PipelineInput(
        task.model, hooks, data, judged.reason, given.evaluate is not None, given.sparsifier, judge,
        None if scorer is None else lambda outputs: scorer.of_outputs(outputs, data.test_labels),
    )  # fmt: skip


def _check_confidence(settings: configs.PruneConfig, evaluate: Evaluate | None) -> None:
    confidence = settings.strategy.gate_confidence
    if confidence and evaluate is not None:
        raise configs.ConfigError(
            f"config.strategy.gate_confidence is {confidence:g}, and evaluate is a function of "
            "your own, which does not tell which images are classified right; expected only one of "
            "the two. Set gate_confidence to 0, or leave evaluate out."
        )


def _check_distribute(
    settings: configs.PruneConfig, own_compile: bool, own_functions: bool
) -> None:
    if settings.training.distribute and (own_compile or own_functions):
        raise configs.ConfigError(
            f"config.training.distribute is {settings.training.distribute!r}; expected '' where "
            "your own functions or the optimizer of your compiled model train: distribute them "
            "yourself, or leave training to config.training."
        )


def _check_ray(settings: configs.PruneConfig, own_training: bool) -> None:
    if settings.ray_address and own_training:
        raise configs.ConfigError(
            f"config.ray_address is {settings.ray_address!r}; expected '' where your own "
            "short_term_train or the optimizer of your compiled model trains: these stay in this "
            "process. Leave ray_address empty, or leave training to config.training.short_term."
        )


@contextlib.contextmanager
def _cluster(settings: configs.PruneConfig) -> Iterator[TrainingCluster | None]:
    """The Ray cluster of the config; None if there is none, or no use for it."""
    from cprune_tf.strategies.registry import registered_strategies

    strategy = registered_strategies()[settings.strategy.name].strategy
    if not (settings.ray_address and strategy.trains_side_by_side):
        yield None
        return
    from cprune_tf.training.cluster import TrainingCluster

    with TrainingCluster(settings.ray_address) as cluster:
        yield cluster


def _journal_stage(run: RunDirectory, name: str, elapsed_sec: float) -> None:
    from cprune_tf.runs import events

    run.journal.append(events.StageEnded(name, elapsed_sec))


def _judged(
    settings: configs.PruneConfig,
    data: Data,
    model: keras.Model,
    evaluate: Evaluate | None,
    run: RunDirectory,
    progress: Progress,
    files: FileChecks,
) -> Judged:
    """The data with the images that decide: as at the run's beginning if it is resumed."""
    from cprune_tf import data as image_data
    from cprune_tf.data.whole_numbers import fit_to_input
    from cprune_tf.runs import events
    from cprune_tf.training.judging import Judged, choose_judges

    if evaluate is not None or not isinstance(data, image_data.ImageData):
        # The caller's own function decides, on whatever it likes; or the caller's own data.
        return Judged(data, "")
    config = settings.data
    described = run.journal.last(events.DataDescribed)
    if described is not None and described.validation_source in ("train", "test"):
        config = dataclasses.replace(config, validation_source=described.validation_source)
    judged = choose_judges(
        model,
        data,
        config,
        lambda other: fit_to_input(
            image_data.load(
                other, input_shape=data.input_shape, num_classes=data.num_classes, files=files
            ),
            model,
        ),
        metric=settings.strategy.metric,
    )
    if judged.reason and described is None:
        progress.note(f"{judged.reason} Half of the test images decide, the other half is quoted.")
    return judged


def _hooks(
    settings: configs.PruneConfig,
    data: Data,
    teacher: keras.Model,
    own_compile: bool,
    replicas: tf.distribute.Strategy | None,
    cluster: TrainingCluster | None,
    run: RunDirectory,
    on_step: Callable[[int, int, str], None],
    short_term_train: Train | None,
    long_term_train: Train | None,
    evaluate: Evaluate | None,
    judge: Int8Judge | None,
    metric: Metric,
    scorer: Scorer | None,
) -> Any:
    """Returns the caller's functions, and the default for each that is None."""
    from cprune_tf.strategies.workbench import Hooks
    from cprune_tf.training.hooks import Trainer

    file_judge = judge if settings.precision == "int8" and evaluate is None else None
    default = Trainer(
        settings,
        data,
        teacher,
        own_compile=own_compile,
        log_dir=run.tensorboard_dir,
        on_step=on_step,
        checkpoint_dir=run.checkpoint_dir,
        replicas=replicas,
        scorer=scorer,
    )
    own_score = None if evaluate is None else (lambda model: metric.score(float(evaluate(model))))
    by_image = evaluate is None and scorer is None
    return Hooks(
        short_term_train or default.short_term_train,
        long_term_train or default.long_term_train,
        own_score or default.evaluate,
        default.sample,
        default.evaluate_batches if by_image else None,
        file_judge.evaluate_batches if file_judge is not None and by_image else None,
        file_judge.score if file_judge is not None and not by_image else None,
        None if own_compile or short_term_train else default.soft_start,
        None if cluster is None else cluster.share(default).short_term_train_all,
        metric,
        None if long_term_train else default.train_one_step,
        None if own_compile or short_term_train or long_term_train else default,
    )


@contextlib.contextmanager
def opened_device(device: str | Device, cores: str) -> Iterator[Device]:
    """Opens a device by name and closes it at the end; an open Device stays open.

    Args:
        device: The name, or the open device.
        cores: The cores to run on; see `devices.Device`.

    Yields:
        The device.

    Raises:
        ConfigError: If there is no such device.
    """
    if not isinstance(device, str):
        yield device
        return
    from cprune_tf.devices import open_device

    try:
        opened = open_device(device, cores)
    except ValueError as error:
        raise configs.ConfigError(f"config.device: {error}") from error
    with opened:
        yield opened


def is_name(model: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a model is given by its file's path or its embedded name."""
    return isinstance(model, (str, os.PathLike))
