"""The configuration of tuning."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import require

LOWERINGS = ("all", "direct")


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """How much the compiler may search.

    Attributes:
        trials_per_task: Number of measured programs for each task of the original model.
        trials_per_accepted_task: Number of measured programs that each task of an accepted
            candidate ends with; 0: the task keeps its transferred programs.
        final_trials_per_task: Minimum number of measured programs that each task of the final model
            ends with.
        trials_per_round: Number of programs that are built and measured together; 0: 16 for each
            build process, but at most 128.
        population_size: Population size of the evolutionary search.
        max_tuning_sec: Time after which a call of the tuner starts no further round, once every
            task has had its first round; 0: no limit.
        stop_within: Tuning ends when all remaining rounds together are expected to make the model
            faster by less than this fraction; 0: no limit. The expected gain of a round is
            estimated from the rounds before it.
        max_rounds_without_gain: A task gets no further rounds after this many consecutive rounds
            that made it less than 1 % faster; 0: no limit.
        warm_start: Programs of earlier runs that new tasks start from. "shipped": the programs that
            come with the package, if there are any for the processor; a path to the folder `tuning`
            of an earlier run; or "": none. These programs are only starting points and are all
            measured again.
        database: A folder of measured programs that several runs share, for any devices, so that no
            run repeats another run's measurements. Only one run at a time can measure for the same
            device there. "": each run has its own database, in its folder `tuning`.
        lowerings: How operators may be computed. "all": in every way that is registered, and the
            fastest is used; "direct": only directly, without e.g. Winograd's algorithm, whose
            results differ from Keras's by a little more.
        programs_per_task: Number of structurally distinct programs that are transferred to a pruned
            shape.
        build_timeout_sec: Time limit for building one program.
        run_timeout_sec: Time limit for measuring one program.
        num_build_workers: Number of build processes; 0: one for each core.
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
    lowerings: str = "all"
    programs_per_task: int = 5
    build_timeout_sec: float = 30.0
    run_timeout_sec: float = 30.0
    num_build_workers: int = 0

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
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
            self.lowerings in LOWERINGS, "tuning.lowerings", self.lowerings, "'all' or 'direct'"
        )
        require(
            0 <= self.stop_within < 1, "tuning.stop_within", self.stop_within, "0 or more, below 1"
        )
