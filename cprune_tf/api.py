"""The Python API: `prune(model, ...)` for use in training scripts."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cprune_tf import config as configs
from cprune_tf.config.shapes import InputShape, with_input_shape
from cprune_tf.opening import Evaluate, RunArguments, Train, is_name, opened_run

if TYPE_CHECKING:
    import keras
    import rich.console

    from cprune_tf.devices import Device
    from cprune_tf.report.types import Report
    from cprune_tf.strategies.workbench.reweighting import Sparsifier

_LIBRARIES = "final*.so"  # only of a run for TVM; one for each number of threads
_DELIVERED = (
    "final.keras",
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
        libraries = sorted(path.name for path in self.workdir.glob(_LIBRARIES))
        names = (*_DELIVERED, *libraries)
        existing = [name for name in (*names, "deploy") if (root / name).exists()]
        if existing and not overwrite:
            raise FileExistsError(
                f"{root} already holds {', '.join(existing)}; pass overwrite=True to replace them."
            )
        for name in names:
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
    input_shape: InputShape | None = None,
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
    Otherwise, training follows config.training; a model of another task than classifying one image
    is then trained with its compiled losses, or, if it is not compiled, with losses that fit its
    outputs and labels.

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
            images. It decides which candidates are accepted. None: that is
            config.data.validation_fraction of train_data, which must be arrays for it.
        test_data: The same once more, used only once, for the accuracies in the report. None:
            the report quotes the accuracies on the validation data, which are slightly optimistic.
        device: A device's name (see open_device), or an open Device, which stays open.
        config: All other settings; missing fields keep their defaults.
        input_shape: The sizes to which inputs of a model for any size are fixed, without the batch:
            (224, 224, 3), or {"image": (224, 224, 3)} for several inputs. The result has them,
            too. None: as in the config.
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
        GraphError: If the model has no graph of layers, e.g. a subclassed model; or if input_shape
            does not fit it.
        DataError: If the data do not fit the model, or some of them cannot be read.
        TrainingError: If the compiled loss or metric cannot be computed from the labels.
        UnsupportedOperationError: If the compiler cannot import one of the model's layers.
    """
    settings = _settings(config, model, device, input_shape)
    arguments = RunArguments(
        model, train_data, validation_data, test_data, device, settings,
        short_term_train, long_term_train, evaluate, sparsifier, console,
    )  # fmt: skip
    root = pathlib.Path(workdir) if workdir is not None else _temporary()
    with opened_run(arguments, root, resume) as context:
        from cprune_tf import pipeline, report
        from cprune_tf.runs import events
        from cprune_tf.storage.plain import to_plain

        dry = pipeline.dry_run if context.config.dry_run else None
        final = pipeline.Pipeline(context, dry).execute()
        written = report.write_report(root)
        judged = context.journal.events(events.CandidateJudged)
        history = tuple(to_plain(event) for event in judged)
    return PruneResult(final, history, written.report, root)


def dry_run(
    model: keras.Model | str | os.PathLike[str],
    *,
    train_data: Any = None,
    validation_data: Any = None,
    test_data: Any = None,
    device: str | Device = "local",
    config: configs.PruneConfig | Mapping[str, Any] | None = None,
    input_shape: InputShape | None = None,
    short_term_train: Train | None = None,
    long_term_train: Train | None = None,
    evaluate: Evaluate | None = None,
    console: rich.console.Console | None = None,
) -> None:
    """Tries all stages of a run with as little work as possible, and keeps nothing.

    `prune` begins with the same unless `config.dry_run` is False.

    Args:
        model: See `prune`, as for all other arguments.
        train_data: See `prune`.
        validation_data: See `prune`.
        test_data: See `prune`.
        device: See `prune`.
        config: See `prune`.
        input_shape: See `prune`.
        short_term_train: See `prune`; it is not called.
        long_term_train: See `prune`; it is not called.
        evaluate: See `prune`; it is called with the original.
        console: See `prune`.

    Raises:
        UserError: Whatever `prune` would raise.
    """
    settings = _settings(config, model, device, input_shape)
    arguments = RunArguments(
        model, train_data, validation_data, test_data, device, settings,
        short_term_train, long_term_train, evaluate, None, console,
    )  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="cprune_dry_run_") as folder,
        opened_run(arguments, pathlib.Path(folder), resume=False) as context,
    ):
        from cprune_tf import pipeline

        pipeline.Pipeline(context).check_input()
        pipeline.dry_run(context)


def _settings(
    config: configs.PruneConfig | Mapping[str, Any] | None,
    model: Any,
    device: str | Device,
    input_shape: InputShape | None,
) -> configs.PruneConfig:
    """The whole config, validated, with the names of the given model and device."""
    settings = (
        config
        if isinstance(config, configs.PruneConfig)
        else configs.from_mapping(dict(config or {}))
    )
    settings = with_input_shape(settings, input_shape).validate()
    settings.training.check_one_process()
    name = str(model) if is_name(model) else str(model.name)
    return dataclasses.replace(
        settings, model=name, device=device if isinstance(device, str) else device.kind
    )


def _temporary() -> pathlib.Path:
    return pathlib.Path(tempfile.mkdtemp(prefix="cprune_run_"))
