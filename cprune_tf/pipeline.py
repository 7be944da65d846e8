"""A pruning run from its first check to its report, each stage resumable.

Every stage looks into the journal first: what was decided, trained or measured before a kill is
read back, not repeated.
"""

from __future__ import annotations

import dataclasses
import pathlib
import resource
import time
from typing import Any

import numpy as np

from cprune_tf import graph, litert
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.config import ConfigError, PruneConfig
from cprune_tf.cross_check import check_deployments
from cprune_tf.deployment import Deployment, write_deploy_folder
from cprune_tf.devices import Device
from cprune_tf.runs import Progress, RunDirectory
from cprune_tf.strategies.cprune import CPrune, restore
from cprune_tf.strategies.workbench import CurrentModel, Hooks, Workbench, stage_progress

STAGES = (
    "Check the input",
    "Tune the original model",
    "Prune",
    "Long-term training",
    "Tune the result",
    "Export",
    "Cross-check",
)


@dataclasses.dataclass(frozen=True)
class PipelineInput:
    """What a run works on.

    Attributes:
        model: The original Keras model, flat or not; never modified.
        hooks: Training and evaluation.
        test_images: float32 [n, height, width, channels], preprocessed; for the cross-check.
        test_labels: [n] classes.
    """

    model: Any
    hooks: Hooks
    test_images: np.ndarray
    test_labels: np.ndarray


class Pipeline:
    """Runs all stages in one run directory.

    Args:
        config: Validated.
        run: The locked run directory.
        device: Open.
        progress: Entered.
        given: Model, hooks and test data.
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
        """Runs or resumes every stage.

        Returns:
            The pruned Keras model.

        Raises:
            ConfigError: If the accuracy requirement or the number of threads cannot be met.
        """
        journal = self._run.journal
        config = self._config
        if journal.last("finished") is None:
            journal.append(
                "run_started",
                version=_version(),
                config_hash=self._run.config_hash,
                model=config.model,
                device=self._device.info().to_json(),
                resumed=self._run.resumed,
            )
        with self._progress.stage("Check the input"):
            original = self._checked_original()
            accuracy, required = self._required_accuracy(original)
        with CompilerSession(
            self._device,
            self._run.tuning_dir,
            config.tuning,
            num_threads=config.measure.num_threads,
            seed=config.seed,
            frontend=config.frontend,
            weights=config.weights,
        ) as session:
            bench = Workbench(
                config, self._run, self._device, session, self._given.hooks, self._progress
            )
            first = self._baseline(bench, original, accuracy, required)
            pruned = self._pruned(bench, first, required)
            final = self._long_trained(bench, pruned)
            deployments = self._exported(bench, first, final)
        self._cross_checked(deployments)
        if journal.last("finished") is None:
            journal.append(
                "finished",
                elapsed_sec=time.monotonic() - self._start,
                peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            )
        return final

    def _checked_original(self) -> Any:
        """The original, flat, after everything that can be refused cheaply was looked at."""
        threads, cores = self._config.measure.num_threads, self._device.num_cores()
        if threads > cores:
            raise ConfigError(
                f"config.measure.num_threads is {threads}; the device has {cores} cores"
                f"{' of that kind' if self._config.measure.cores else ''}."
            )
        model = graph.functional_twin(self._given.model)
        channels = graph.analyze(model, self._config.protect)
        if not channels.prunable:
            reasons = sorted({str(group.protected) for group in channels.groups})
            raise ConfigError(
                f"The model {model.name!r} has no channel group that could be pruned: "
                f"{'; '.join(reasons) or 'no layer makes channels'}."
            )
        from cprune_tf.compiler.importer import import_through

        # Names every unsupported layer before any tuning.
        import_through(self._config.frontend, model)
        if not self._run.path("original.tflite").exists():
            self._run.write_bytes("original.tflite", litert.convert(model))
        return model

    def _required_accuracy(self, original: Any) -> tuple[float, float]:
        """The original's accuracy and the one the result needs."""
        baseline = self._run.journal.last("evaluated")
        if baseline is None:
            accuracy = float(self._given.hooks.evaluate(original))
            self._run.journal.append("evaluated", accuracy=accuracy)
        else:
            accuracy = float(baseline["accuracy"])
        strategy = self._config.strategy
        required = strategy.required_accuracy or max(0.0, accuracy - strategy.max_accuracy_drop)
        self._progress.note(
            f"Accuracy of the original: {accuracy:.2%} ({strategy.metric}); required: "
            f"{required:.2%}"
        )
        if required > accuracy:
            raise ConfigError(
                f"config.strategy.required_accuracy is {required:.2%}, but the original model has "
                f"{accuracy:.2%} ({strategy.metric}) on these test data. Ask for less, or check "
                "that config.data preprocesses the images as the model was trained with."
            )
        return accuracy, required

    def _baseline(
        self, bench: Workbench, original: Any, accuracy: float, required: float
    ) -> CurrentModel:
        known = self._run.journal.last("baseline")
        if known is not None:
            return restore(bench, known, original)
        lowered = bench.session.lower(original)
        library = bench.library_path(0)
        with self._progress.stage("Tune the original model") as stage:
            bench.session.tune(lowered, self._config.tuning.trials_per_task, stage_progress(stage))
            bench.session.build(lowered, library)
            latency = bench.time(original, library)[0]
        first = CurrentModel(
            0,
            original,
            lowered,
            bench.analyze(original),
            library,
            accuracy,
            latency,
            1.0,
            graph.PruningHistory(),
        )
        self._run.save_model(original, "models/iter_0000.keras")
        self._run.journal.append(
            "baseline",
            **bench.describe(first),
            required_accuracy=required,
            metric=self._config.strategy.metric,
        )
        self._progress.note(f"The original, tuned: {latency}")
        return first

    def _pruned(self, bench: Workbench, first: CurrentModel, required: float) -> CurrentModel:
        journal = self._run.journal
        last = journal.events("candidate")[-1:]
        accepted = journal.last("accepted")
        if last and last[0]["accepted"] is not None:
            decided = last[0]["accepted"]
            if accepted is None or accepted["iteration"] < decided["iteration"]:
                # Killed between the two lines: the decision stands.
                accepted = journal.append("accepted", **decided)
        current = first
        if accepted is not None:
            current = restore(bench, accepted, _load(self._run.path(accepted["model"])))
        if journal.last("stopped") is not None:
            return current
        return CPrune(bench, first, required).run(current)

    def _long_trained(self, bench: Workbench, pruned: CurrentModel) -> Any:
        """Long-term training; its weights are kept only where they are no worse."""
        known = self._run.journal.last("long_term_trained")
        if known is not None:
            return _load(self._run.path(known["model"]))
        model = pruned.model
        accuracy = pruned.accuracy
        kept = "as it was"
        if pruned.iteration:
            before = [np.array(weight) for weight in model.get_weights()]
            with self._progress.stage("Long-term training"):
                bench.hooks.long_term_train(model)
                trained = bench.hooks.evaluate(model)
            if trained >= accuracy:
                accuracy, kept = trained, "trained"
            else:
                model.set_weights(before)
                self._progress.note(
                    f"Long-term training ended at {trained:.2%}, below {accuracy:.2%}: "
                    "the weights before it are kept."
                )
        self._run.save_model(model, "final.keras")
        self._run.journal.append(
            "long_term_trained",
            accuracy=accuracy,
            epochs=self._config.training.long_term.epochs if pruned.iteration else 0,
            kept=kept,
            model="final.keras",
        )
        return model

    def _exported(
        self, bench: Workbench, first: CurrentModel, final: Any
    ) -> tuple[Deployment, Deployment]:
        """Tunes original and result to the same number of trials and writes what is deployed."""
        original_library = self._run.path("original.so")
        final_library = self._run.path("final.so")
        deployments = (
            Deployment(
                "original", first.model, original_library, self._run.path("original.tflite")
            ),
            Deployment("pruned", final, final_library, self._run.path("final.tflite")),
        )
        if self._run.journal.last("exported") is not None:
            return deployments
        lowered = bench.session.lower(final)
        trials = self._config.tuning.final_trials_per_task
        with self._progress.stage("Tune the result") as stage:
            for part in (lowered, first.lowered):
                bench.session.tune(part, trials, stage_progress(stage))
        with self._progress.stage("Export"):
            bench.session.build(lowered, final_library)
            bench.session.build(first.lowered, original_library)
            self._run.write_bytes("final.tflite", litert.convert(final))
            write_deploy_folder(
                self._run,
                final,
                self._config.data,
                self._device.target(self._config.measure.num_threads),
            )
        names = ("final.keras", "final.so", "final.tflite", "original.so", "original.tflite")
        files = [
            {"name": name, "path": name, "bytes": self._run.path(name).stat().st_size}
            for name in ("models/iter_0000.keras", *names)
        ]
        self._run.journal.append("exported", files=files)
        return deployments

    def _cross_checked(self, deployments: tuple[Deployment, ...]) -> None:
        if self._run.journal.last("cross_check") is not None:
            return
        with self._progress.stage("Cross-check"):
            checked = check_deployments(
                deployments,
                self._given.test_images,
                self._given.test_labels,
                self._device,
                measure=self._config.measure,
                thread_counts=(1, self._device.num_cores()),
                metric=self._config.strategy.metric,
                weights=self._config.weights,
            )
            self._run.journal.append("cross_check", **checked.to_json())
        for problem in checked.problems:
            self._progress.note(f"Problem: {problem}")


def remaining_stages(run: RunDirectory) -> tuple[str, ...]:
    """The stages that a run still has before it; the check of the input is always one."""
    ended = {event["name"] for event in run.journal.events("stage")} - {STAGES[0]}
    return tuple(name for name in STAGES if name not in ended)


def _load(path: pathlib.Path) -> Any:
    import keras

    return keras.models.load_model(path)


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("cprune_tf")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
