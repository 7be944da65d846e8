"""A pruning run from the check of its input to the cross-check; each stage can be resumed.

Every stage reads the journal first. What an earlier session decided, trained or measured is read
back and not repeated.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import resource
import time
from typing import Any

import numpy as np

from cprune_tf import graph, litert
from cprune_tf.accuracy import AccuracyGate, Evaluation
from cprune_tf.config import ConfigError, PruneConfig
from cprune_tf.cross_check import Score, check_deployments, check_pixel_file
from cprune_tf.data import Data, ImageData
from cprune_tf.deployment import Deployment, write_deploy_folder
from cprune_tf.devices import Device
from cprune_tf.litert.pixels import taking_pixels
from cprune_tf.runs import Progress, RunDirectory, events
from cprune_tf.runs.environment import package_version
from cprune_tf.runs.results import ExportedFile
from cprune_tf.runtimes import Runtime, RuntimeOptions, find_runtime, open_runtime
from cprune_tf.storage import files
from cprune_tf.strategies.base import Strategy
from cprune_tf.strategies.registry import registered_strategies
from cprune_tf.strategies.workbench import CurrentModel, Hooks, Workbench, run_strategy
from cprune_tf.strategies.workbench.reweighting import Reweighting, Sparsifier
from cprune_tf.training.deployed import Int8Judge
from cprune_tf.training.plausibility import guessing_note

STAGES = (
    "Check the input",
    "Tune the original model",
    "Prune",
    "Long-term training",
    "Tune the result",
    "Export",
    "Cross-check",
)


_TFLITE = ".tflite"
_PIXEL_FILE = "deploy/model_pixels.tflite"


@dataclasses.dataclass(frozen=True)
class PipelineInput:
    """The model and the data of a run.

    Attributes:
        model: The original Keras model, which may contain nested models; it is never modified.
        hooks: The functions that train and evaluate models.
        data: The images and labels. Only the cross-check uses the test images, unless there are no
            validation images.
        judging_reason: Why the validation images are not those of the config; "" if they are.
        own_score: Whether the caller's own function gives the accuracies.
        sparsifier: Changes the original's weights in place of the strategy and of long-term
            training; None: the strategy prunes.
        int8: Makes int8 files; None in a run without them.
        score_outputs: Judges all outputs on the test data, where models are judged by a metric of
            the caller's; None: the images' classes tell, or nothing.
    """

    model: Any
    hooks: Hooks
    data: Data
    judging_reason: str = ""
    own_score: bool = False
    sparsifier: Sparsifier | None = None
    int8: Int8Judge | None = None
    score_outputs: Score | None = None


class Pipeline:
    """Runs all stages in one run directory.

    Args:
        config: The config of the run, validated.
        run: The run directory, locked by this process.
        device: The open device.
        progress: The display of the run's progress, entered as a context manager.
        given: The model, the hooks and the data.
    """

    def __init__(
        self,
        config: PruneConfig,
        run: RunDirectory,
        device: Device,
        progress: Progress,
        given: PipelineInput,
    ) -> None:
        self._config = config
        self._run = run
        self._device = device
        self._progress = progress
        self._given = given
        self._start = time.monotonic()

    def execute(self) -> Any:
        """Runs every stage; a stage that an earlier session finished is not repeated.

        Returns:
            The pruned Keras model.

        Raises:
            ConfigError: If no channel group can be pruned, if the required accuracy or the number
                of threads is too high, or if the strategy needs what the hooks do not give.
        """
        journal, config = self._run.journal, self._config
        runtime = find_runtime(config.runtime, config.precision)
        if journal.last(events.Finished) is None:
            journal.append(
                events.RunStarted(
                    version=package_version(),
                    config_hash=self._run.config_hash,
                    model=config.model,
                    device=self._device.info(),
                    resumed=self._run.resumed,
                )
            )
        registration = registered_strategies()[config.strategy.name]
        with self._progress.stage("Check the input"):
            registration.strategy.check(config, self._given.hooks)
            self._describe_data()
            original = self._checked_original(runtime)
            accuracy, required = self._required_accuracy(original)
        with open_runtime(config.runtime, self._device, self._runtime_options()) as opened:
            bench = Workbench(config, self._run, opened, self._given.hooks, self._progress)
            first = self._baseline(bench, original, accuracy, required)
            pruned = self._pruned(bench, first, required)
            if self._given.sparsifier is None:
                final = self._long_trained(bench, pruned, required)
            else:
                final = self._as_sparsified(pruned)
            deployments = self._exported(bench, first, final)
        self._cross_checked(deployments)
        if journal.last(events.Finished) is None:
            journal.append(
                events.Finished(
                    elapsed_sec=time.monotonic() - self._start,
                    peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                )
            )
        return final

    def _describe_data(self) -> None:
        """Journals once how many images train the models, decide, and are quoted in the report."""
        data, journal = self._given.data, self._run.journal
        if journal.last(events.DataDescribed) is None:
            num_validation = data.num_validation
            journal.append(
                events.DataDescribed(
                    data.name,
                    data.num_train,
                    num_validation,
                    data.num_test,
                    data.validation_source if num_validation else "",
                    self._given.judging_reason,
                )
            )

    def _runtime_options(self) -> RuntimeOptions:
        config = self._config
        return RuntimeOptions(
            precision=config.precision,
            workdir=self._run.tuning_dir,
            tuning=config.tuning,
            num_threads=config.measure.num_threads,
            seed=config.seed,
            frontend=config.frontend,
            weights=config.weights,
            quantization=config.quantization,
            quantize=None if self._given.int8 is None else self._given.int8.quantize,
        )

    def _checked_original(self, runtime: type[Runtime]) -> Any:
        """Returns a flat copy of the original, after all checks that take little time."""
        config = self._config
        threads, cores = config.measure.num_threads, self._device.num_cores()
        if threads > cores:
            chosen = " in config.measure.cores" if config.measure.cores else ""
            raise ConfigError(
                f"config.measure.num_threads is {threads}; expected at most {cores}, the number of "
                f"the device's cores{chosen}."
            )
        model = graph.functional_twin(self._given.model)
        channels = graph.analyze(model, config.protect)
        if not channels.prunable:
            reasons = sorted({str(group.protected) for group in channels.groups})
            raise ConfigError(
                f"The model {model.name!r} has no channel group that could be pruned: "
                f"{'; '.join(reasons) or 'no layer makes channels'}."
            )
        if self._run.journal.last(events.Baseline) is None:
            graph.check_storable(model)
        options = self._runtime_options()
        runtime.check(model, options)
        if "int8" in config.compared_precisions and config.precision != "int8":
            int8 = dataclasses.replace(options, precision="int8")
            find_runtime("litert", "int8").check(model, int8)
        sparsifier = self._given.sparsifier
        if sparsifier is not None and self._run.journal.last(events.CandidateJudged) is None:
            sparsifier.check(model, self._images())
        if runtime.suffix != _TFLITE and not self._run.path("original.tflite").exists():
            self._run.write_bytes("original.tflite", litert.convert(model))
        return model

    def _required_accuracy(self, original: Any) -> tuple[float, float]:
        """Returns the scores that the original has and that the result must have."""
        evaluated = self._run.journal.last(events.Evaluated)
        if evaluated is None:
            evaluated = self._run.journal.append(self._given.hooks.evaluate_original(original))
        accuracy, metric = evaluated.accuracy, self._given.hooks.metric
        strategy = self._config.strategy
        if strategy.required_accuracy:
            required = metric.score(strategy.required_accuracy)
        else:
            required = accuracy - metric.drop(strategy.max_accuracy_drop, accuracy)
            required = max(0.0, required) if metric.is_accuracy else required
        self._progress.note(
            f"{metric.word.capitalize()} of the original: {metric.text(accuracy)} ({metric.name}); "
            f"required: {metric.text(required)}"
        )
        guessing = "" if self._given.own_score else self._guessing(accuracy)
        if guessing:
            if required > 0:
                raise ConfigError(
                    f"{guessing} If accuracy does not matter, set strategy.max_accuracy_drop to "
                    f"{math.ceil(accuracy * 100) / 100:.2f} or more."
                )
            self._progress.note(guessing)
        if required > accuracy:
            raise ConfigError(
                f"config.strategy.required_accuracy is {metric.text(required)}, but the original "
                f"model has {metric.text(accuracy)} ({metric.name}) on the data that decide; "
                "expected what the original reaches. Change it, or check that the data are "
                "preprocessed in the same way as in the model's training."
            )
        return accuracy, required

    def _guessing(self, accuracy: float) -> str:
        data, metric = self._given.data, self._given.hooks.metric
        if not isinstance(data, ImageData) or not metric.is_rank:
            return ""
        return guessing_note(accuracy, data, metric.name)

    def _baseline(
        self, bench: Workbench, original: Any, accuracy: float, required: float
    ) -> CurrentModel:
        baseline = self._run.journal.last(events.Baseline)
        if baseline is not None:
            return bench.restore(baseline, original)
        first = bench.start(original, self._evaluated_as_deployed(bench, original, accuracy))
        metric = self._given.hooks.metric
        self._run.journal.append(
            events.Baseline(
                **vars(bench.describe(first)),
                required_accuracy=required,
                metric=metric.name,
                is_minimized=metric.is_minimized,
            )
        )
        self._progress.note(f"The original, tuned: {first.latency}")
        return first

    def _evaluated_as_deployed(
        self, bench: Workbench, original: Any, accuracy: float
    ) -> Evaluation:
        """Evaluates the original as it would be deployed; only int8 makes a difference."""
        if bench.hooks.evaluate_deployed is None:
            return Evaluation(accuracy)
        evaluation = bench.evaluate(original)
        self._progress.note(
            f"The original as int8 in LiteRT: {evaluation.text(bench.hooks.metric)}"
        )
        return evaluation

    def _pruned(self, bench: Workbench, first: CurrentModel, required: float) -> CurrentModel:
        journal = self._run.journal
        accepted = journal.last(events.Accepted)
        judged = journal.last(events.CandidateJudged)
        if judged is not None and judged.accepted is not None:
            record = judged.accepted
            if accepted is None or accepted.iteration < record.iteration:
                # The run was killed between the two lines; the decision holds, so the second line
                # is written now.
                accepted = journal.append(events.Accepted(**vars(record)))
        current = first
        if accepted is not None:
            current = bench.restore(accepted, self._load(self._run.path(accepted.model)))
        if journal.last(events.Stopped) is not None:
            return current
        return run_strategy(self._strategy(bench, first, required), bench, current)

    def _load(self, path: pathlib.Path) -> Any:
        return graph.load_stored(path, self._given.model)

    def _images(self) -> ImageData:
        """The data of a classifier; without those, the API takes no sparsifier."""
        assert isinstance(self._given.data, ImageData)
        return self._given.data

    def _strategy(self, bench: Workbench, first: CurrentModel, required: float) -> Strategy:
        sparsifier = self._given.sparsifier
        if sparsifier is not None:
            return Reweighting(bench, first, required, sparsifier, self._images())
        registration = registered_strategies()[self._config.strategy.name]
        return registration.strategy(bench, first, required)

    def _long_trained(self, bench: Workbench, pruned: CurrentModel, required: float) -> Any:
        """Trains the fastest model for long; goes back to an earlier one while that is too bad.

        A strategy may accept a model that misses the requirement by a little, since this training
        follows. The original is never trained.
        """
        confidence = self._config.strategy.gate_confidence
        gate = AccuracyGate(required, required, confidence, bench.hooks.metric)
        known = self._run.journal.last(events.LongTermTrained)
        iteration = pruned.iteration
        if known is not None:
            if known.iteration <= 0 or not gate.shortfall(known.evaluation):
                return self._load(self._run.path(known.model))
            iteration = known.iteration - 1
        model, evaluation = self._long_trained_point(bench, pruned, iteration)
        while iteration > 0 and (shortfall := gate.shortfall(evaluation)):
            iteration -= 1
            self._progress.note(
                f"After long-term training, iteration {iteration + 1} misses the requirement: "
                f"{shortfall}. Iteration {iteration} is delivered instead."
            )
            model, evaluation = self._long_trained_point(bench, pruned, iteration)
        return model

    def _long_trained_point(
        self, bench: Workbench, pruned: CurrentModel, iteration: int
    ) -> tuple[Any, Evaluation]:
        """Trains one accepted model; its weights change only if they are no worse then."""
        journal = self._run.journal
        records = (*journal.events(events.Baseline), *journal.events(events.Accepted))
        record = next(one for one in reversed(records) if one.iteration == iteration)
        model = pruned.model
        if iteration != pruned.iteration:
            model = self._load(self._run.path(record.model))
        evaluation, kept = record.evaluation, "as it was"
        if iteration:
            before = [np.array(weight) for weight in model.get_weights()]
            with self._progress.stage("Long-term training"):
                bench.hooks.long_term_train(model)
                graph.flush_subnormals(model)
                trained = bench.evaluate(model)
            if trained.accuracy >= evaluation.accuracy:
                evaluation, kept = trained, "trained"
            else:
                model.set_weights(before)
                metric = bench.hooks.metric
                self._progress.note(
                    f"Long-term training ended at {metric.text(trained.accuracy)}, which is worse "
                    f"than {metric.text(evaluation.accuracy)}: the weights before it are kept."
                )
        self._run.save_model(model, "final.keras")
        epochs = self._config.training.long_term.epochs if iteration else 0
        journal.append(
            events.LongTermTrained(
                evaluation.accuracy, epochs, kept, "final.keras", iteration, evaluation.paired
            )
        )
        return model, evaluation

    def _as_sparsified(self, pruned: CurrentModel) -> Any:
        """Delivers a sparsified model untouched: long-term training would undo its zeros."""
        journal = self._run.journal
        known = journal.last(events.LongTermTrained)
        if known is not None:
            return self._load(self._run.path(known.model))
        with self._progress.stage("Long-term training") as stage:
            stage.update(text="left out: the sparsifier has trained the model")
            self._run.save_model(pruned.model, "final.keras")
            evaluation = pruned.evaluation
            journal.append(
                events.LongTermTrained(
                    evaluation.accuracy,
                    0,
                    "as it was",
                    "final.keras",
                    pruned.iteration,
                    evaluation.paired,
                )
            )
        return pruned.model

    def _exported(
        self, bench: Workbench, first: CurrentModel, final: Any
    ) -> tuple[Deployment, Deployment]:
        """Tunes the original and the result with equal effort and writes the files to deploy."""
        run, runtime = self._run, bench.runtime
        original_file, final_file = (
            run.path(f"{name}{runtime.suffix}") for name in ("original", "final")
        )
        has_tvm = runtime.name == "tvm"
        deployments = (
            self._deployment("original", first.model, original_file),
            self._deployment("pruned", final, final_file),
        )
        if run.journal.last(events.Exported) is not None:
            return deployments
        prepared = runtime.prepare(final)
        trials = self._config.tuning.final_trials_per_task
        with self._progress.stage("Tune the result") as stage:
            for runtime_model in (prepared, first.prepared):
                runtime.tune(runtime_model, trials, stage.progress)
        with self._progress.stage("Export"):
            runtime.build(prepared, final_file)
            runtime.build(first.prepared, original_file)
            if has_tvm:
                run.write_bytes("final.tflite", litert.convert(final))
            for one in deployments:
                for precision, other in one.others:
                    content = self._tflite(one.keras_model, precision)
                    files.write_bytes(pathlib.Path(other), content)
            threads = self._config.measure.num_threads
            target = self._device.target(threads) if has_tvm else None
            is_classifier = isinstance(self._given.data, ImageData)
            write_deploy_folder(
                run,
                deployments[-1],
                self._config.data if is_classifier else None,
                target,
                self._images().class_names if is_classifier else (),
            )
            if self._config.deploy.pixel_input:
                run.write_bytes(_PIXEL_FILE, self._tflite_taking_pixels(final))
        built = (final_file.name, "final.tflite", original_file.name, "original.tflite")
        names = tuple(dict.fromkeys(("final.keras", *built)))
        exported = tuple(
            ExportedFile(name, name, run.path(name).stat().st_size)
            for name in ("models/iter_0000.keras", *names)
        )
        run.journal.append(events.Exported(exported))
        return deployments

    def _deployment(self, name: str, model: Any, built: pathlib.Path) -> Deployment:
        """Describes the files of a model; `built` is what the runtime builds."""
        config, tflite = self._config, built.with_suffix(_TFLITE)
        library = None if built == tflite else built
        precision = config.precision if library is None else "float32"
        others = tuple(
            (other, built.with_name(f"{built.stem}_{other}{_TFLITE}"))
            for other in config.compared_precisions
            if other != precision
        )
        return Deployment(name, model, library, tflite, precision, config.weights, others)

    def _tflite(self, model: Any, precision: str) -> bytes:
        """Makes the `.tflite` file of a model that is compared with what is deployed."""
        int8 = self._given.int8
        if precision == "int8" and int8 is not None:
            return int8.quantize(model)
        return litert.convert(model, precision=precision)

    def _tflite_taking_pixels(self, model: Any) -> bytes:
        """Makes the `.tflite` file that preprocesses, at the precision of the deployed one."""
        config, int8 = self._config, self._given.int8
        whole = taking_pixels(model, config.data.mean, config.data.std)
        if config.runtime == "tvm":
            return litert.convert(whole)
        if config.precision == "int8" and int8 is not None:
            return int8.quantize_taking_pixels(whole)
        return litert.convert(whole, precision=config.precision)

    def _cross_checked(self, deployments: tuple[Deployment, ...]) -> None:
        if self._run.journal.last(events.CrossChecked) is not None:
            return
        data = self._given.data
        with self._progress.stage("Cross-check"):
            checked = check_deployments(
                deployments,
                data.test_images,
                data.test_labels if isinstance(data, ImageData) else None,
                self._device,
                measure=self._config.measure,
                thread_counts=(1, self._device.num_cores()),
                metric=self._given.hooks.metric.name,
                score=self._given.score_outputs,
            )
            if self._config.deploy.pixel_input:
                problems = check_pixel_file(
                    self._run.path(_PIXEL_FILE),
                    deployments[-1],
                    self._images().test_images,
                    self._config.data,
                    self._device,
                )
                checked = dataclasses.replace(checked, problems=(*checked.problems, *problems))
            self._run.journal.append(events.CrossChecked.of(checked))
        for problem in checked.problems:
            self._progress.note(f"Problem: {problem}")


def remaining_stages(run: RunDirectory) -> tuple[str, ...]:
    """Returns the stages that a run has not finished; the first stage is always repeated."""
    ended = {event.name for event in run.journal.events(events.StageEnded)} - {STAGES[0]}
    return tuple(name for name in STAGES if name not in ended)
