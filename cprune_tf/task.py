"""What a run's model is judged by and trained on: found from the config, the model and the data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from cprune_tf import config as configs
from cprune_tf import data as data_lib
from cprune_tf import models
from cprune_tf.accuracy import Metric
from cprune_tf.config.shapes import write_input_shape
from cprune_tf.data import Data, SampleData
from cprune_tf.data.datasets import check_image_data, from_datasets
from cprune_tf.data.image_files import FileChecks, FileProgress
from cprune_tf.data.interface import IMAGES, Interface, interface_of
from cprune_tf.data.suggested_shape import require_fixed_inputs
from cprune_tf.data.whole_numbers import fit_to_input, is_integer
from cprune_tf.graph import unknown_sizes
from cprune_tf.graph.heads import LINEAR, output_activations
from cprune_tf.training.compiled import check_compiled, check_whole_labels
from cprune_tf.training.errors import check_model
from cprune_tf.training.evaluation import evaluate
from cprune_tf.training.heads import compiled_by_heads
from cprune_tf.training.scoring import Scorer

if TYPE_CHECKING:
    import keras


# What `model.fit` of a compiled model takes from a training phase.
_FIT_FIELDS_OF_COMPILED = ("epochs", "max_steps_per_epoch")


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A model with its data and how it is judged.

    Attributes:
        model: The model, compiled if it is to be trained by a loss of its own.
        data: The data.
        metric: What the scores are.
        scorer: Computes them; None: a classifier's accuracies, or the caller's own function.
        remark: How the model is trained, for people; "" if there is nothing to say.
        teacher: The model of `config.training.teacher`; None: the original.
    """

    model: keras.Model
    data: Data
    metric: Metric
    scorer: Scorer | None = None
    remark: str = ""
    teacher: keras.Model | None = None


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
    loaded = models.load_model(
        settings.model,
        unsafe_lambda=settings.unsafe_lambda,
        compiled=not settings.strategy.judged_by.is_rank,
    )
    model, fixed = models.with_fixed_inputs(loaded, settings.input_shape)
    require_fixed_inputs(model, settings.data)
    metric = metric_of(settings, model, own_score=False)
    if metric.is_rank:
        shape, num_classes = models.shape_and_classes(model)
        images = data_lib.load(settings.data, input_shape=shape, num_classes=num_classes)
        return Task(model, fit_to_input(images, model), metric, remark=fixed)
    samples = data_lib.load_samples(settings.data, interface_of(model))
    check_training(settings, samples)
    model, remark, scorer = prepare_task(model, samples, metric, False, own_score=False)
    return Task(model, samples, metric, scorer, " ".join(filter(None, (fixed, remark))))


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


def ignored_fields(settings: configs.PruneConfig) -> str:
    """Says what `config.training` asks for in vain where a compiled model trains itself.

    Args:
        settings: The run's config.

    Returns:
        A sentence; "" if nothing is ignored.
    """
    training, default = settings.training, configs.TrainingConfig()
    ignored = []
    if training.recalibration_batches != default.recalibration_batches:
        ignored.append("config.training.recalibration_batches")
    for phase in ("short_term", "long_term"):
        fit, usual = getattr(training, phase), getattr(default, phase)
        ignored += [
            f"config.training.{phase}.{field.name}"
            for field in dataclasses.fields(fit)
            if field.name not in _FIT_FIELDS_OF_COMPILED
            and getattr(fit, field.name) != getattr(usual, field.name)
        ]
    if not ignored:
        return ""
    return (
        "The model was given compiled, so that its own optimizer and losses train it; what follows "
        f"has no effect: {', '.join(ignored)}."
    )


def load_teacher(
    settings: configs.PruneConfig, model: keras.Model, data: Data, own_training: bool
) -> keras.Model | None:
    """Loads the model of `config.training.teacher`, and checks that its outputs can be taught.

    Args:
        settings: The run's config.
        model: The original.
        data: Its data.
        own_training: Whether the caller's functions, or the compiled model's own optimizer, train.

    Returns:
        The teacher; None if the config names none.

    Raises:
        ConfigError: If nothing would learn from it, or its inputs and outputs are others.
        ModelError: If it cannot be loaded.
        TrainingError: If a classifier's teacher is for other images or classes.
    """
    path = settings.training.teacher
    if not path:
        return None
    if own_training:
        raise configs.ConfigError(
            f"config.training.teacher is {path!r}; expected '' where your own functions or the "
            "optimizer of your compiled model train: teach there, or leave training to "
            "config.training."
        )
    teacher = models.load_model(path, unsafe_lambda=settings.unsafe_lambda)
    if isinstance(data, data_lib.ImageData):
        shape = write_input_shape(data.input_shape) if unknown_sizes(teacher) else ""
        teacher, _ = models.with_fixed_inputs(teacher, shape)
        check_model(teacher, data)
        return teacher
    theirs = interface_of(teacher)
    for kind, own, other in (
        ("inputs", data.interface.inputs, theirs.inputs),
        ("outputs", data.interface.outputs, theirs.outputs),
    ):
        names, other_names = ([port.name for port in ports] for ports in (own, other))
        is_other_order = names != other_names and sorted(names) == sorted(other_names)
        if is_other_order or [port.shape for port in own] != [port.shape for port in other]:
            raise configs.ConfigError(
                f"config.training.teacher {path!r} has the {kind} {', '.join(map(str, other))}; "
                f"expected as many as the model has, of the same shapes and in the same order: "
                f"{', '.join(map(str, own))}."
            )
    for port, end, other_end in zip(
        theirs.outputs, output_activations(model), output_activations(teacher), strict=True
    ):
        if end != other_end:
            raise configs.ConfigError(
                f"config.training.teacher {path!r}: the output {port} ends in "
                f"{_ending(other_end)}, and the model's in {_ending(end)}; expected the "
                "same, so that they can be compared. Change the end of one of them."
            )
    return teacher


def _ending(activation: str) -> str:
    return "neither a sigmoid nor a softmax" if activation == LINEAR else f"a {activation}"


def check_teacher(settings: configs.PruneConfig, teacher: keras.Model, task: Task) -> None:
    """Refuses a teacher that is worse than its pupil.

    Args:
        settings: The run's config.
        teacher: From `load_teacher`.
        task: The original, and the data with the samples that decide.

    Raises:
        ConfigError: If it has a lower score on the samples that decide.
    """
    metric, data = task.metric, task.data
    if isinstance(data, data_lib.ImageData):
        name = settings.strategy.metric
        known, own = (evaluate(one, data, name, part="validation") for one in (teacher, task.model))
    elif task.scorer is not None:
        known, own = (task.scorer.of_model(one, *data.judges) for one in (teacher, task.model))
    else:  # only the caller's own function knows
        return
    if known < own:
        limit = "at most" if metric.is_minimized else "at least"
        raise configs.ConfigError(
            f"config.training.teacher {settings.training.teacher!r} has {metric.text(known)} "
            f"({metric.name}) on the {metric.items} that decide; expected {limit} the original's "
            f"{metric.text(own)}. Check that it was trained with the same preprocessing."
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
    check_integer_inputs(settings, model)
    interface = IMAGES if metric.is_rank else interface_of(model)
    is_ready = isinstance(train_data, data_lib.ImageData)
    if train_data is None:
        # The caller's own functions train. Only an importance criterion may still need labelled
        # images; it gets validation images.
        train_data = validation_data
    elif validation_data is None and not is_ready:
        fraction = settings.data.validation_fraction
        train_data, validation_data = data_lib.set_apart(train_data, fraction, interface)
    given = (train_data, validation_data, test_data)
    if not metric.is_rank:
        return _samples(settings, interface, given, on_progress)
    return fit_to_input(_images(settings, model, given, files, on_progress), model)


def check_integer_inputs(settings: configs.PruneConfig, model: keras.Model) -> None:
    """Refuses models that cannot compute from the integers that they say they take.

    Keras finds out only when such a model is called, e.g. for a convolution of uint8.

    Args:
        settings: The run's config.
        model: The original.

    Raises:
        ConfigError: If Keras cannot compute the model's outputs, or if the config asks for a second
            file that takes pixels.
    """
    interface = interface_of(model)
    types = sorted({port.dtype for port in interface.inputs if is_integer(port.dtype)})
    if not types:
        return
    if settings.deploy.pixel_input:
        raise configs.ConfigError(
            "config.deploy.pixel_input is True, which is for models of preprocessed images, and "
            f"this one takes {types[0]}; expected False, since its own files take pixels."
        )
    zeros = [np.zeros((1, *map(int, filter(None, p.shape))), p.dtype) for p in interface.inputs]
    try:
        model(interface.nested(zeros), training=False)
    except Exception as error:  # TensorFlow and layers raise what they like for such types.
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise configs.ConfigError(
            f"The model {model.name!r} takes {', '.join(types)}, and Keras cannot compute it: "
            f"{' '.join(lines[:2])[:300]} Expected a layer after the input that makes numbers of "
            "floating point, e.g. Rescaling, Embedding or keras.ops.cast."
        ) from error


def _images(
    settings: configs.PruneConfig,
    model: keras.Model,
    given: tuple[Any, Any, Any],
    files: FileChecks,
    on_progress: FileProgress,
) -> data_lib.ImageData:
    """Checks the (train, validation, test) data of a classifier of one image."""
    shape, classes = models.shape_and_classes(model)
    train_data, *_ = given
    if isinstance(train_data, data_lib.ImageData):
        return check_image_data(train_data, train_data.name, shape, classes)
    if train_data is None:
        return data_lib.load(settings.data, input_shape=shape, num_classes=classes, files=files)
    return from_datasets(
        *given,
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
    given: tuple[Any, Any, Any],
    on_progress: FileProgress,
) -> SampleData:
    """Checks the (train, validation, test) data of any other task than classifying an image."""
    train_data, *_ = given
    if train_data is None:
        return data_lib.load_samples(settings.data, interface)
    if isinstance(train_data, data_lib.ImageData):
        raise configs.ConfigError(
            f"config.strategy.metric is {settings.strategy.metric!r}, and the model has "
            f"{interface}; expected train_data and validation_data of (inputs, labels), since "
            "ImageData are for classifiers of one image."
        )
    return data_lib.from_samples(
        interface,
        *given,
        batch_size=settings.data.batch_size,
        max_test=settings.data.max_test,
        steps_per_epoch=settings.data.steps_per_epoch,
        on_progress=on_progress,
    )
