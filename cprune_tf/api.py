"""The Python API: `prune(model, ...)` for use in training scripts."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
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
    from cprune_tf.report.types import Report
    from cprune_tf.runs import Progress, RunDirectory
    from cprune_tf.strategies.workbench.reweighting import Sparsifier
    from cprune_tf.training.cluster import TrainingCluster
    from cprune_tf.training.deployed import Int8Judge
    from cprune_tf.training.judging import Judged
    from cprune_tf.training.scoring import Scorer

Train = Callable[[Any], None]
Evaluate = Callable[[Any], float]
_LIBRARY = "final.so"  # only of a run for TVM
_DELIVERED = (
    "final.keras",
    _LIBRARY,
    "final.tflite",
    "report.html",
    "report.json",
    "config.json",
    "environment.json",
    "journal.jsonl",
)


@dataclasses.dataclass(frozen=True, eq=False)
class PruneResult:
    """The result of a pruning run.

    Attributes:
        model: The pruned Keras model.
        history: One mapping for each candidate, in the order in which they were tried, with the
            fields of `runs.events.CandidateJudged`: what was removed, the latency and accuracy, the
            decision and its reason.
        report: All that the HTML report shows.
        workdir: The run directory.
    """

    model: keras.Model
    history: tuple[Mapping[str, Any], ...]
    report: Report
    workdir: pathlib.Path

    def save(self, directory: str | os.PathLike[str], overwrite: bool = False) -> pathlib.Path:
        """Copies the results to a directory: models, library if any, report, journal and `deploy/`.

        Args:
            directory: The directory to copy to; it is created if it does not exist.
            overwrite: Whether to replace existing files.

        Returns:
            The directory's path.

        Raises:
            FileExistsError: If one of the files exists and overwrite is false.
        """
        root = pathlib.Path(directory)
        root.mkdir(parents=True, exist_ok=True)
        existing = [name for name in (*_DELIVERED, "deploy") if (root / name).exists()]
        if existing and not overwrite:
            raise FileExistsError(
                f"{root} already holds {', '.join(existing)}; pass overwrite=True to replace them."
            )
        for name in _DELIVERED:
            if name != _LIBRARY or (self.workdir / name).exists():
                shutil.copy2(self.workdir / name, root / name)
        shutil.copytree(self.workdir / "deploy", root / "deploy", dirs_exist_ok=True)
        return root


def prune(
    model: keras.Model | str | os.PathLike[str],
    *,
    train_data: Any = None,
    validation_data: Any = None,
    test_data: Any = None,
    device: str | Device = "local",
    config: configs.PruneConfig | Mapping[str, Any] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    short_term_train: Train | None = None,
    long_term_train: Train | None = None,
    evaluate: Evaluate | None = None,
    sparsifier: Sparsifier | None = None,
    console: rich.console.Console | None = None,
) -> PruneResult:
    """Prunes a Keras model for a device, guided by latencies that are measured on the device.

    A compiled model that is given with train_data is trained with its own optimizer and loss.
    Otherwise, training follows config.training.

    Args:
        model: A functional or Sequential Keras 3 model, or the path or the embedded name of one.
        train_data: Preprocessed (inputs, labels) or (inputs, labels, sample weights) as
            `model.fit` takes them: a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a tuple of
            arrays (see `data.from_datasets` for classifiers of one image, and `data.from_samples`
            for all other models, which docs/tasks.md is about). Or an `ImageData`, which
            replaces validation_data and test_data as well. None with validation_data: pass your
            own training functions, since the defaults would train on the validation data. None
            without validation_data: the data that config.data names.
        validation_data: The same, finite; it is read into memory, at most config.data.max_test
            images. It decides which candidates are accepted.
        test_data: The same once more, used only once, for the accuracies in the report. None:
            the report quotes the accuracies on the validation data, which are slightly optimistic.
        device: A device's name (see open_device), or an open Device, which stays open.
        config: All other settings; missing fields keep their defaults.
        workdir: The run directory. None: a new temporary one, which is kept; see
            PruneResult.workdir.
        resume: Whether to continue the run in workdir.
        short_term_train: Trains a candidate in place; None: the default training.
        long_term_train: Trains the pruned model in place; None: the default training.
        evaluate: Returns a model's accuracy, 0..1, or a value of whatever config.strategy.metric
            names; it is always run whole. None: the metric is computed on the validation data.
        sparsifier: Sets weights to zero in place of the strategy and of long-term training, so
            that no filter is removed; None: the strategy prunes.
        console: The console that shows progress; None: standard output.

    Returns:
        The pruned model, the decisions and the report.

    Raises:
        ConfigError: If the config is invalid, or requires a higher accuracy than the original has,
            or if the original only guesses; or if the metric is not for such a model.
        GraphError: If the model has no graph of layers, e.g. a subclassed model.
        DataError: If the data do not fit the model, or some of them cannot be read.
        TrainingError: If the compiled loss or metric cannot be computed from the labels.
        UnsupportedOperationError: If the compiler cannot import one of the model's layers.
    """
    settings = (
        config
        if isinstance(config, configs.PruneConfig)
        else configs.from_mapping(dict(config or {}))
    ).validate()
    _check_confidence(settings, evaluate)
    settings.training.check_one_process()
    settings = _with_names(settings, model, device)
    from cprune_tf import data as image_data
    from cprune_tf import models, pipeline, report
    from cprune_tf.data.image_files import FileChecks
    from cprune_tf.runs import Progress, RunDirectory, events
    from cprune_tf.storage.plain import to_plain
    from cprune_tf.task import check_task, load_data, metric_of
    from cprune_tf.training import distribution
    from cprune_tf.training.compiled import check_compiled, check_whole_labels
    from cprune_tf.training.deployed import Int8Judge
    from cprune_tf.training.plausibility import scaling_note
    from cprune_tf.training.scoring import Scorer

    keras_model = model
    if _is_name(model):
        keras_model = models.load_model(os.fspath(model), unsafe_lambda=settings.unsafe_lambda)
    own_compile = train_data is not None and bool(getattr(keras_model, "compiled", False))
    _check_distribute(settings, own_compile, bool(short_term_train and long_term_train))
    _check_ray(settings, own_compile or short_term_train is not None)
    replicas = distribution.open_strategy(settings.training.distribute)
    with Progress(console) as checking, checking.stage("Check the data") as stage:
        files = FileChecks(stage.progress)
        metric = metric_of(settings, keras_model, own_score=evaluate is not None)
        data = load_data(
            settings, metric, keras_model, train_data, validation_data, test_data, files,
            stage.progress,
        )  # fmt: skip
        own_training = bool(short_term_train and long_term_train)
        if own_compile and not own_training:
            check_compiled(keras_model, data)
        scorer = None
        if not isinstance(data, image_data.ImageData):
            check_task(settings, data, own_compile or own_training, sparsifier is not None)
            check_whole_labels(keras_model, data.interface, data.judges[1], metric)
            if evaluate is None:
                scorer = Scorer(keras_model, data.interface, metric, data.judges[1])
    root = pathlib.Path(workdir) if workdir is not None else _temporary()
    with (
        _cluster(settings) as cluster,
        opened_device(device, settings.measure.cores) as opened,
        RunDirectory.open(root, settings, resume=resume) as run,
        Progress(
            console,
            run.log_path,
            pipeline.remaining_stages(run),
            on_stage_end=lambda name, sec: _journal_stage(run, name, sec),
        ) as progress,
    ):
        judged = _judged(settings, data, keras_model, evaluate, run, progress, files)
        data = judged.data
        for note in (*data.notes, scaling_note(keras_model, data)):
            if note:
                progress.note(note)
        if settings.ray_address and cluster is None:
            progress.note(
                f"config.ray_address has no effect: the trainings of {settings.strategy.name} "
                "depend on each other, and run in this process."
            )
        judge = None
        if settings.makes_int8 and isinstance(data, image_data.ImageData):
            judge = Int8Judge(settings, data)
        hooks = _hooks(
            settings, data, keras_model, own_compile, replicas, cluster, run, progress.innermost,
            short_term_train, long_term_train, evaluate, judge, metric, scorer,
        )  # fmt: skip
        given = pipeline.PipelineInput(
            keras_model, hooks, data, judged.reason, evaluate is not None, sparsifier,
            judge,
            None if scorer is None else
            lambda outputs: scorer.of_outputs(outputs, data.test_labels),
        )  # fmt: skip
        final = pipeline.Pipeline(settings, run, opened, progress, given).execute()
        written = report.write_report(run.root)
        history = tuple(to_plain(event) for event in run.journal.events(events.CandidateJudged))
    return PruneResult(final, history, written.report, root)


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
        lambda other: image_data.load(
            other, input_shape=data.input_shape, num_classes=data.num_classes, files=files
        ),
        metric=settings.strategy.metric,
    )
    if judged.reason and described is None:
        progress.note(f"{judged.reason} Half of the test images decide, the other half is quoted.")
    return judged


def _hooks(
    settings: configs.PruneConfig,
    data: Data,
    model: keras.Model,
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

    judge_by_file = settings.precision == "int8" and evaluate is None
    default = Trainer(
        settings,
        data,
        _teacher(settings, model, data),
        own_compile=own_compile,
        log_dir=run.tensorboard_dir,
        on_step=on_step,
        checkpoint_dir=run.checkpoint_dir,
        replicas=replicas,
        scorer=scorer,
    )
    own_score = None if evaluate is None else (lambda model: metric.score(float(evaluate(model))))
    return Hooks(
        short_term_train or default.short_term_train,
        long_term_train or default.long_term_train,
        own_score or default.evaluate,
        default.sample,
        default.evaluate_batches if evaluate is None and scorer is None else None,
        judge.evaluate_batches if judge is not None and judge_by_file else None,
        None if own_compile or short_term_train else default.soft_start,
        None if cluster is None else cluster.share(default).short_term_train_all,
        metric,
    )


def _teacher(settings: configs.PruneConfig, model: keras.Model, data: Data) -> keras.Model:
    """Returns the model whose outputs candidates are trained to keep, after a check."""
    path = settings.training.teacher
    from cprune_tf.data import ImageData

    if not path or not isinstance(data, ImageData):
        return model
    from cprune_tf import models
    from cprune_tf.training.errors import check_model
    from cprune_tf.training.evaluation import evaluate

    teacher = models.load_model(path, unsafe_lambda=settings.unsafe_lambda)
    check_model(teacher, data)
    metric = settings.strategy.metric
    known, own = (evaluate(one, data, metric, part="validation") for one in (teacher, model))
    if known < own:
        raise configs.ConfigError(
            f"config.training.teacher {path!r} has {known:.2%} ({metric}) on the images that "
            f"decide; expected at least the original's {own:.2%}. Check that it was trained with "
            "the preprocessing that config.data describes."
        )
    return teacher


def _with_names(
    settings: configs.PruneConfig, model: Any, device: str | Device
) -> configs.PruneConfig:
    """Returns the config for the run directory, with the names of the given model and device."""
    name = str(model) if isinstance(model, (str, os.PathLike)) else str(model.name)
    return dataclasses.replace(
        settings, model=name, device=device if isinstance(device, str) else device.kind
    )


def _temporary() -> pathlib.Path:
    return pathlib.Path(tempfile.mkdtemp(prefix="cprune_run_"))


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


def _is_name(model: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(model, (str, os.PathLike))
