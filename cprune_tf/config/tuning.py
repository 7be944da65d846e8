"""How much the compiler may search."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import require


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """How much the compiler may search.

    Attributes:
        trials_per_task: Measured programs for each task of the first model.
        trials_per_accepted_task: Measured programs each task of an accepted candidate ends with;
            0: it keeps the transferred ones.
        final_trials_per_task: Measured programs each task of the final model ends with, at least.
        trials_per_round: Programs built and measured together; 0: 16 for each build process, 128
            at most.
        population_size: Of the evolutionary search.
        max_tuning_sec: A call of the tuner starts no further round after this long, once every
            task has had its first; 0: no limit.
        stop_within: Tuning ends when all rounds that are left are together expected to make the
            model less than this fraction faster; 0: no limit. What a round gains is expected from
            the rounds before it.
        max_rounds_without_gain: A task gets no more rounds after this many in a row that made it
            less than 1 % faster; 0: no limit.
        warm_start: Programs of earlier runs that new tasks start from: "shipped": those that come
            with the package, where there are some for the processor; a folder `tuning` of an
            earlier run; or "": none. They are only starting points: all are measured again.
        database: A folder of measured programs that several runs share, for any devices: what one
            run measured, no other measures again. Only one run at a time measures for a device
            there. "": each run has its own, in its folder `tuning`.
        programs_per_task: Structurally distinct programs that are transferred to a pruned shape.
        build_timeout_sec: For one program.
        run_timeout_sec: For one program's measurement.
        num_build_workers: Build processes; 0: one per core.
    """

    trials_per_task: int = 64
    trials_per_accepted_task: int = 32
    final_trials_per_task: int = 128
    trials_per_round: int = 0
    population_size: int = 64
    max_tuning_sec: float = 0.0
    stop_within: float = 0.0
    max_rounds_without_gain: int = 2
    warm_start: str = "shipped"
    database: str = ""
    programs_per_task: int = 5
    build_timeout_sec: float = 30.0
    run_timeout_sec: float = 30.0
    num_build_workers: int = 0

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        for name in (
            "trials_per_task",
            "population_size",
            "programs_per_task",
            "build_timeout_sec",
            "run_timeout_sec",
        ):
            value = getattr(self, name)
            require(value > 0, f"tuning.{name}", value, "a positive number")
        for name in (
            "trials_per_accepted_task",
            "final_trials_per_task",
            "trials_per_round",
            "max_tuning_sec",
            "max_rounds_without_gain",
            "num_build_workers",
        ):
            value = getattr(self, name)
            require(value >= 0, f"tuning.{name}", value, "0 or more")
        require(
            0 <= self.stop_within < 1, "tuning.stop_within", self.stop_within, "0 or more, below 1"
        )
