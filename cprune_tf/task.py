"""What a run's model is judged by and trained on: found from the config, the model and the data."""

from __future__ import annotations

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

if TYPE_CHECKING:
    import keras


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
        f"class scores, and the model has {interface}. Set it to a metric that the model was "
        "compiled with, e.g. 'mean_absolute_error', or give `evaluate`; see docs/tasks.md."
    )


def check_task(
    settings: configs.PruneConfig, data: SampleData, own_training: bool, is_sparsified: bool
) -> None:
    """Refuses what is there for classifiers of one image only.

    Args:
        settings: The run's config.
        data: The data of another task.
        own_training: Whether the caller's functions or compiled model train in all phases.
        is_sparsified: Whether a sparsifier was given.

    Raises:
        ConfigError: If the config asks for such a thing.
    """
    if not own_training:
        raise configs.ConfigError(
            f"The model has {data.interface}, and config.training trains only classifiers of one "
            "image; expected a model that was compiled with its optimizer and loss and is given "
            "with train_data, or both short_term_train and long_term_train."
        )
    if settings.makes_int8:
        raise configs.ConfigError(
            "config.precision or config.compared_precisions names int8, which is judged only for "
            f"classifiers of one image, and the model has {data.interface}; expected float32 or "
            "float16."
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
    if settings.training.teacher:
        raise configs.ConfigError(
            f"config.training.teacher is {settings.training.teacher!r}; expected '' where the "
            "caller's own functions or the optimizer of the compiled model train."
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
    if validation_data is None or isinstance(train_data, data_lib.ImageData):
        raise configs.ConfigError(
            f"config.strategy.metric is {settings.strategy.metric!r}, and the model has "
            f"{interface}; expected train_data and validation_data of (inputs, labels), since "
            "config.data and ImageData are for classifiers of one image."
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
