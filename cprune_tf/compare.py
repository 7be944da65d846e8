"""Compares strategies: a run for each, with the same model, data, device and requirement.

Each run is an ordinary run directory in the folder of its strategy's name. All of them share the
measured programs. At the end, all results are timed once more in turn, since latencies of different
hours are not comparable on a machine whose speed drifts.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence

import rich.console

from cprune_tf import devices, report
from cprune_tf.baselines.registry import CONTENDERS
from cprune_tf.baselines.tfmot import sparse_files
from cprune_tf.config import PruneConfig
from cprune_tf.config.strategy import StrategyConfig
from cprune_tf.errors import UserError
from cprune_tf.report import compared
from cprune_tf.report.compared.build import has_pruned_model
from cprune_tf.runs import directory, read_records
from cprune_tf.runs.events import RUN_EVENTS, Baseline, Finished
from cprune_tf.runs.records import Event
from cprune_tf.runtimes.registry import find_runtime
from cprune_tf.storage.files import StorageError
from cprune_tf.storage.lock import FileLock, LockedError
from cprune_tf.strategies.registry import registered_strategies

_DATABASE = "database"
_LOCK = "comparison.lock"
_DIGEST_LENGTH = 16

# No strategy's fault: the comparison ends, and goes on with --resume.
_ENDING = (devices.DeviceUnreachableError, LockedError, StorageError)


class CompareError(UserError, ValueError):
    """A comparison that cannot begin or continue; says what was received and what is expected."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A comparison that can be carried out; made by `make_plan`.

    Attributes:
        workdir: The directory of the comparison.
        configs: The config of each run, by the strategy's name, in the order of running.
    """

    workdir: pathlib.Path
    configs: Mapping[str, PruneConfig]

    def root(self, strategy: str) -> pathlib.Path:
        """Returns the run directory of a strategy."""
        return self.workdir / strategy

    def unfinished(self) -> tuple[str, ...]:
        """Returns the strategies whose runs have not finished."""
        return tuple(name for name in self.configs if not _holds(self.root(name), Finished))


def make_plan(
    config: PruneConfig, strategies: Sequence[str], workdir: pathlib.Path, *, resume: bool = False
) -> Plan:
    """Checks a comparison before anything expensive begins.

    Args:
        config: The config of all runs; the name of its strategy is not used.
        strategies: The strategies to compare, and contenders of `baselines.registry`; empty: all
            strategies.
        workdir: The directory of the comparison; it need not exist.
        resume: Whether to continue the comparison that the directory holds.

    Returns:
        The plan.

    Raises:
        CompareError: If a name is unknown or given twice, or if the directory holds a comparison
            and `resume` is false.
        ConfigError: If the config does not suit a strategy.
        RunDirectoryError: If a run began with another config.
        TfmotError: If a contender's tool is not installed.
    """
    config.training.check_one_process()
    names = _checked_names(strategies)
    _check_contenders(names, config.strategy)
    workdir = workdir.resolve()
    if workdir.exists() and not workdir.is_dir():
        raise CompareError(f"{workdir} is a file; expected a directory for the comparison.")
    tuning = dataclasses.replace(
        config.tuning, database=config.tuning.database or str(workdir / _DATABASE)
    )
    configs = {
        name: dataclasses.replace(
            config,
            tuning=tuning,
            # The first run's dry run goes through the same stages as the others' would.
            dry_run=config.dry_run and name == names[0],
            strategy=dataclasses.replace(config.strategy, name=_config_name(name)),
        ).validate()
        for name in names
    }
    begun = [name for name in names if (workdir / name / directory.CONFIG_NAME).exists()]
    if begun and not resume:
        raise CompareError(
            f"{workdir} already holds a comparison ({', '.join(begun)}); pass --resume to "
            "continue it, or choose another --workdir."
        )
    for name in begun:
        directory.refuse_other_config(workdir / name, configs[name])
    plan = Plan(workdir, configs)
    for name in plan.unfinished():
        if name in CONTENDERS:
            CONTENDERS[name].require_packages()
    return plan


def compare_strategies(
    plan: Plan, console: rich.console.Console | None = None
) -> compared.WrittenComparison:
    """Carries out a comparison; finished runs are only read, interrupted ones go on.

    Args:
        plan: The comparison.
        console: The console that shows progress; None: standard output.

    Returns:
        The comparison, which is also written to the directory. A strategy whose run failed has a
        row that says why.

    Raises:
        LockedError: If another process works in the directory or in the shared database.
        DeviceUnreachableError: If the device is lost.
        StorageError: If a file cannot be written.
        UserError: If the original cannot be measured, so that every strategy would fail.
    """
    console = console or rich.console.Console()
    lock = FileLock(plan.workdir / _LOCK)
    try:
        failures = _run_all(plan, console)
        timing = _timed_together(plan, failures, console)
        built = compared.build_comparison(plan.workdir, tuple(plan.configs), failures, timing)
        return compared.write_comparison(plan.workdir, built)
    finally:
        lock.release()


def _checked_names(strategies: Sequence[str]) -> tuple[str, ...]:
    registered = registered_strategies()
    known = tuple(registered)
    names = tuple(strategies) or tuple(
        name for name in known if registered[name].strategy.removes_only_filters
    )
    unknown = [name for name in names if name not in (*known, *CONTENDERS)]
    if unknown:
        raise CompareError(
            f"--strategies names {', '.join(map(repr, unknown))}; expected some of "
            f"{', '.join(known)}, or of the baselines {', '.join(CONTENDERS)}."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CompareError(f"--strategies names {', '.join(repeated)} twice; expected each once.")
    return names


def _check_contenders(names: Sequence[str], strategy: StrategyConfig) -> None:
    contenders = [name for name in names if name in CONTENDERS]
    if contenders and not strategy.judged_by.is_rank:
        raise CompareError(
            f"--strategies names {', '.join(contenders)}, which are for classifiers of one image, "
            f"and config.strategy.metric is {strategy.metric!r}; expected 'top1' or 'top5' there, "
            "or only strategies that prune."
        )


def _config_name(name: str) -> str:
    """The strategy in a run's config; a contender's run uses none, so it gets the default."""
    return StrategyConfig().name if name in CONTENDERS else name


def _run_all(plan: Plan, console: rich.console.Console) -> dict[str, str]:
    """Runs what has not finished; returns why runs failed, by strategy."""
    failures = {}
    unfinished = plan.unfinished()
    for name in plan.configs:
        try:
            if name in unfinished:
                console.rule(f"{name} ({unfinished.index(name) + 1} of {len(unfinished)})")
                _run(plan, name, console)
            elif not (plan.root(name) / "report.html").exists():
                report.write_report(plan.root(name))
            _complete(plan, name)
        except _ENDING:
            raise
        except UserError as error:
            # Before the first baseline, nothing depends on the strategy: all would fail alike. Only
            # a contender also checks there what its tool can do.
            any_measured = any(_holds(plan.root(other), Baseline) for other in plan.configs)
            if not any_measured and name not in CONTENDERS:
                raise
            failures[name] = " ".join(str(error).split())
            console.print(f"{name} failed: {failures[name]}", markup=False, highlight=False)
    return failures


def _run(plan: Plan, name: str, console: rich.console.Console) -> None:
    import keras

    from cprune_tf import api

    config = plan.configs[name]
    try:
        api.prune(
            config.model,
            device=config.device,
            config=config,
            workdir=plan.root(name),
            resume=True,
            sparsifier=CONTENDERS[name].sparsifier(config) if name in CONTENDERS else None,
            console=console,
        )
    finally:
        # The next run starts like one in a process of its own.
        keras.backend.clear_session()


def _complete(plan: Plan, name: str) -> None:
    """Writes and times the sparse file of a contender's finished run, unless it is there."""
    if name not in CONTENDERS or sparse_files.read_sparse_files(plan.root(name)) is not None:
        return
    config = plan.configs[name]
    with devices.open_device(config.device, config.measure.cores) as device:
        sparse_files.write_sparse_files(
            plan.root(name), device, config.measure, config.measure.num_threads
        )


def _holds(root: pathlib.Path, kind: type[Event]) -> bool:
    """Returns whether a run's journal holds an event of this class."""
    journal = root / directory.JOURNAL_NAME
    if not journal.is_file():
        return False
    return any(type(record.event) is kind for record in read_records(journal, RUN_EVENTS))


def _timed_together(
    plan: Plan, failures: Mapping[str, str], console: rich.console.Console
) -> compared.Timing | None:
    """Times the original and all results in turn, unless an earlier session did.

    Returns:
        The measurement; None if there is no pruned model.
    """
    roots = {
        name: plan.root(name)
        for name in plan.configs
        if name not in failures and has_pruned_model(plan.root(name))
    }
    if not roots:
        return None
    # The last run built the original from the most measurements.
    config = next(iter(plan.configs.values()))
    suffix = find_runtime(config.runtime, config.precision).suffix
    libraries = {compared.ORIGINAL: list(roots.values())[-1] / f"original{suffix}"}
    libraries |= {name: root / f"final{suffix}" for name, root in roots.items()}
    digests = {name: _digest(path) for name, path in libraries.items()}
    known = compared.read_timing(plan.workdir)
    if known is not None and known.covers(digests):
        return known
    console.print(f"Timing {len(libraries)} models in turn.")
    inputs = _inputs(next(iter(roots.values())))
    models = [
        devices.ModelFile(name, config.runtime, str(path), inputs)
        for name, path in libraries.items()
    ]
    with devices.open_device(config.device, config.measure.cores) as device:
        latencies = device.time_models(models, config.measure.num_threads, config.measure)
        info = device.info()
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    timed = tuple(
        compared.TimedModel(name, digests[name], latency)
        for name, latency in zip(libraries, latencies, strict=True)
    )
    return compared.Timing(info, now, timed)


def _digest(path: pathlib.Path) -> str:
    if not path.is_file():
        raise CompareError(f"{path} is gone; restore it, or remove its folder to run it again.")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGEST_LENGTH]


def _inputs(root: pathlib.Path) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Returns (dtype, shape) of each input, which pruning does not change."""
    path = root / "deploy" / "metadata.json"
    if not path.is_file():
        raise CompareError(f"{path} is gone; restore it, or remove {root} to run it again.")
    metadata = json.loads(path.read_text(encoding="utf-8"))
    return tuple((str(one["dtype"]), tuple(one["shape"])) for one in metadata["inputs"])
