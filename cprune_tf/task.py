"""What a run's model is judged by and trained on: found from the config, the model and the data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from cprune_tf import config as configs
from cprune_tf import data as data_lib
from cprune_tf import models
from cprune_tf.accuracy import Metric
from cprune_tf.data import Data, SampleData
from cprune_tf.data.datasets import check_image_data, from_datasets
from cprune_tf.data.image_files import FileChecks, FileProgress
from cprune_tf.data.interface import Interface, interface_of
from cprune_tf.graph import check_names
from cprune_tf.training.compiled import check_compiled, check_whole_labels
from cprune_tf.training.heads import compiled_by_heads
from cprune_tf.training.scoring import Scorer

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A model with its data and how it is judged.

    Attributes:
        model: The model, compiled if it is to be trained by a loss of its own.
        data: The data.
        metric: What the scores are.
        scorer: Computes them; None: a classifier's accuracies, or the caller's own function.
        remark: How the model is trained, for people; "" if there is nothing to say.
    """

    model: keras.Model
    data: Data
    metric: Metric
    scorer: Scorer | None = None
    remark: str = ""


def open_task(settings: configs.PruneConfig) -> Task:
    """Loads the model and the data that a config names, for tools that do not prune.

    Args:
        settings: The config.

    Raises:
        ConfigError: If the metric is not for such a model, or the config asks for what is there
            for classifiers of one image only.
        DataError: If the data do not fit the model.
        ModelError: If the model cannot be loaded.
        TrainingError: If the labels fit no loss, or there is no such metric.
    """
    model = models.load_model(
        settings.model,
        unsafe_lambda=settings.unsafe_lambda,
        compiled=not settings.strategy.judged_by.is_rank,
    )
    metric = metric_of(settings, model, own_score=False)
    if metric.is_rank:
        shape, num_classes = models.shape_and_classes(model)
        images = data_lib.load(settings.data, input_shape=shape, num_classes=num_classes)
        return Task(model, images, metric)
    samples = data_lib.load_samples(settings.data, interface_of(model))
    check_training(settings, samples)
    model, remark, scorer = prepare_task(model, samples, metric, False, own_score=False)
    return Task(model, samples, metric, scorer, remark)


def metric_of(settings: configs.PruneConfig, model: keras.Model, *, own_score: bool) -> Metric:
    """Finds out what models are judged by.

    Args:
        settings: The run's config.
        model: The original.
        own_score: Whether the caller's own function evaluates; then any name will do.

    Returns:
        The metric of the config; "score" for the caller's function where the config names none.

    Raises:
        ConfigError: If the metric is not for such a model, or the model's inputs are not fixed.
        GraphError: If the model has no inputs and outputs.
    """
    metric, interface = settings.strategy.judged_by, interface_of(model)
    if not metric.is_rank or interface.is_classifier:
        return metric
    if own_score:
        return Metric("score")
    raise configs.ConfigError(
        f"config.strategy.metric is {metric.name!r}, which is for one image and one vector of "
        f"class scores, and the model has {interface}. Set it to a metric of its task, e.g. "
        "'mean_absolute_error' or 'loss', or give `evaluate` in Python; see docs/tasks.md."
    )


def prepare_task(
    model: keras.Model, data: SampleData, metric: Metric, own_training: bool, *, own_score: bool
) -> tuple[keras.Model, str, Scorer | None]:
    """Makes sure that a model of another task has losses to be trained with, and its metric.

    Args:
        model: The original; it is not changed.
        data: Its data.
        metric: What models are judged by.
        own_training: Whether the caller's functions train in all phases.
        own_score: Whether the caller's own function evaluates.

    Returns:
        The model if it is compiled or nobody needs it to be, or else a compiled copy; what is to be
        said about it; and what judges models, unless the caller's function does.

    Raises:
        TrainingError: If the labels fit no loss, the compiled one included, or there is no such
            metric.
    """
    labels, remark, scorer = data.judges[1], "", None
    check_whole_labels(model, data.interface, labels, metric)
    if not (getattr(model, "compiled", False) or (own_training and own_score)):
        wanted = None if own_score else metric
        model, remark = compiled_by_heads(model, data.interface, wanted, labels)
    if not own_training:
        check_compiled(model, data)
    if not own_score:
        scorer = Scorer(model, data.interface, metric, labels)
    return model, "" if own_training else remark, scorer


def check_task(
    settings: configs.PruneConfig,
    data: SampleData,
    own_training: bool,
    judges_only: bool,
    is_sparsified: bool,
    *,
    own_score: bool,
) -> None:
    """Refuses what is there for classifiers of one image only.

    Args:
        settings: The run's config.
        data: The data of another task.
        own_training: Whether the caller's functions train in all phases.
        judges_only: Whether only validation data were given.
        is_sparsified: Whether a sparsifier was given.
        own_score: Whether the caller's own function evaluates.

    Raises:
        ConfigError: If the config asks for such a thing.
    """
    if judges_only and not own_training:
        raise configs.ConfigError(
            "validation_data was given without train_data; expected both, or short_term_train and "
            "long_term_train, since a training on the samples that decide would judge itself."
        )
    check_training(settings, data)
    aware = settings.quantization.aware
    if own_score and settings.precision == "int8" and aware.epochs:
        raise configs.ConfigError(
            f"config.quantization.aware.epochs is {aware.epochs}, and evaluate is a function of "
            "your own, which does not judge int8 files; expected 0, or a metric of the model."
        )
    if confidence := settings.strategy.gate_confidence:
        raise configs.ConfigError(
            f"config.strategy.gate_confidence is {confidence:g}, and the metric "
            f"{settings.strategy.metric!r} does not judge samples one by one; expected 0."
        )
    if is_sparsified:
        raise configs.ConfigError(
            f"A sparsifier was given, which is for classifiers of one image, and the model has "
            f"{data.interface}; expected none."
        )
    if settings.deploy.pixel_input:
        raise configs.ConfigError(
            "config.deploy.pixel_input is True, which is for classifiers of one image, and the "
            f"model has {data.interface}; expected False."
        )
    if settings.ray_address:
        raise configs.ConfigError(
            f"config.ray_address is {settings.ray_address!r}, which is for classifiers of one "
            f"image, and the model has {data.interface}; expected ''."
        )


def check_training(settings: configs.PruneConfig, data: SampleData) -> None:
    """Refuses fields of config.training that are for classifiers of one image only.

    Args:
        settings: The config.
        data: The data of another task.

    Raises:
        ConfigError: If one of them is set.
    """
    training = settings.training
    for name, value, expected in (
        ("teacher", training.teacher, "''"),
        ("distribute", training.distribute, "''"),
        ("short_term.label_smoothing", training.short_term.label_smoothing, "0"),
        ("long_term.label_smoothing", training.long_term.label_smoothing, "0"),
    ):
        if value:
            raise configs.ConfigError(
                f"config.training.{name} is {value!r}, which is for classifiers of one image that "
                f"are judged by top1 or top5, and the model has {data.interface}; expected "
                f"{expected}."
            )


def load_data(
    settings: configs.PruneConfig,
    metric: Metric,
    model: keras.Model,
    train_data: Any,
    validation_data: Any,
    test_data: Any,
    files: FileChecks,
    on_progress: FileProgress,
) -> Data:
    """Loads and checks the data, and the model's inputs and outputs.

    Args:
        settings: The run's config.
        metric: What models are judged by; "top1" and "top5" need images with classes.
        model: The original.
        train_data: See `api.prune`.
        validation_data: See `api.prune`.
        test_data: See `api.prune`.
        files: Checks the files of a folder.
        on_progress: Told how far the check of the data is.

    Returns:
        The data.

    Raises:
        ConfigError: If data are missing.
        DataError: If they do not fit the model.
    """
    check_names(model)
    if not metric.is_rank:
        given = (train_data, validation_data, test_data)
        return _samples(settings, interface_of(model), *given, on_progress)
    shape, classes = models.shape_and_classes(model)
    if isinstance(train_data, data_lib.ImageData):
        return check_image_data(train_data, train_data.name, shape, classes)
    if train_data is None and validation_data is None:
        return data_lib.load(settings.data, input_shape=shape, num_classes=classes, files=files)
    if validation_data is None:
        raise configs.ConfigError(
            "train_data was given without validation_data; expected both, since the accuracy on "
            "the validation data decides which candidates are accepted."
        )
    # Without train_data, the caller's own functions train. Only an importance criterion may still
    # need labelled images; it gets validation images.
    train = validation_data if train_data is None else train_data
    return from_datasets(
        train,
        validation_data,
        test_data,
        batch_size=settings.data.batch_size,
        max_test=settings.data.max_test,
        steps_per_epoch=settings.data.steps_per_epoch,
        class_names=settings.data.class_names,
        input_shape=shape,
        num_classes=classes,
        on_progress=on_progress,
    )


def _samples(
    settings: configs.PruneConfig,
    interface: Interface,
    train_data: Any,
    validation_data: Any,
    test_data: Any,
    on_progress: FileProgress,
) -> SampleData:
    """Checks the data of any other task than classifying an image."""
    if train_data is None and validation_data is None:
        return data_lib.load_samples(settings.data, interface)
    if validation_data is None or isinstance(train_data, data_lib.ImageData):
        raise configs.ConfigError(
            f"config.strategy.metric is {settings.strategy.metric!r}, and the model has "
            f"{interface}; expected train_data and validation_data of (inputs, labels), since "
            "ImageData are for classifiers of one image."
        )
    train = validation_data if train_data is None else train_data
    return data_lib.from_samples(
        interface,
        train,
        validation_data,
        test_data,
        batch_size=settings.data.batch_size,
        max_test=settings.data.max_test,
        steps_per_epoch=settings.data.steps_per_epoch,
        on_progress=on_progress,
    )
