"""The runtime TVM: imports and tunes models, and compiles them to a library for the device."""

from __future__ import annotations

import math
import os
import typing
from collections.abc import Callable
from typing import Any

from cprune_tf.compiler.importer import import_through
from cprune_tf.compiler.profiling import ProgramTimer
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.compiler.structure import program_structure
from cprune_tf.compiler.tasks import LoweredModel, Task
from cprune_tf.compiler.transfer import distinct_programs
from cprune_tf.config import ConfigError
from cprune_tf.devices import Device
from cprune_tf.runtimes.base import Progress, Runtime, TaskCost
from cprune_tf.runtimes.registry import RuntimeOptions, register_runtime

if typing.TYPE_CHECKING:
    import keras

# Filter tiles come from this many of a task's best programs that differ in program structure.
_TILE_PROGRAMS = 4


@register_runtime("tvm", ("float32",))
class TvmRuntime(Runtime):
    """TVM on one device: a compiler session and the programs that it has measured.

    Args:
        device: The device that programs run on.
        options: The settings to open the runtime with.

    Attributes:
        session: The compiler session, for features that only TVM has (roofline, comparison of
            single layers).
    """

    name = "tvm"
    suffix = ".so"
    exposes_programs = True

    def __init__(self, device: Device, options: RuntimeOptions) -> None:
        super().__init__(device, options.precision, options.num_threads)
        self.session = CompilerSession(
            device,
            options.workdir,
            options.tuning,
            num_threads=options.num_threads,
            seed=options.seed,
            frontend=options.frontend,
            weights=options.weights,
        )
        self._timer = ProgramTimer(
            device, self.session.database, self.session.target, num_threads=options.num_threads
        )

    @classmethod
    def check(cls, model: keras.Model, options: RuntimeOptions) -> None:
        """See Runtime. The error names every layer that cannot be imported."""
        import_through(options.frontend, model)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """See Runtime."""
        return {
            "runtime": str(self),
            "target": str(self.session.target),
            "num_threads": self.num_threads,
        }

    @property
    def lanes(self) -> int:
        """See Runtime. On a GPU, these are the threads of a warp."""
        return self.session.lanes

    def prepare(self, model: keras.Model) -> LoweredModel:
        """See Runtime."""
        return self.session.lower(model)

    def tune(self, model: Any, trials_per_task: int, progress: Progress | None = None) -> None:
        """See Runtime."""
        self.session.tune(model, trials_per_task, progress)

    def price(
        self, candidate: Any, current: Any, on_task: Callable[[Task], None] | None = None
    ) -> float:
        """See Runtime. Transfers the current model's programs to the candidate's shapes."""
        return self.session.price(candidate, current, on_task)

    def tasks_ms(self, model: Any) -> float:
        """See Runtime."""
        return typing.cast(LoweredModel, model).latency_ms(self.session.database)

    def task_costs(self, model: Any) -> tuple[TaskCost, ...]:
        """See Runtime."""
        return tuple(
            TaskCost(row.task, row.latency_ms, row.total_ms, row.share, row.gflops, row.structure)
            for row in self.session.task_table(model)
        )

    def samples_ms(self, task: Task) -> tuple[float, ...]:
        """See Runtime. Times the task's fastest program, which is built only once."""
        return self._timer.samples_ms(task)

    def filter_tiles(self, task: Task, filters: int) -> tuple[int, ...]:
        """See Runtime. Returns the inner tiles of the best few programs of different structure."""
        tiles: dict[int, None] = {}
        for lowered in task.lowerings:
            programs = self.session.database.programs(lowered.mod)
            for program in distinct_programs(programs, _TILE_PROGRAMS):
                structure = program_structure(program, lowered.mod)
                # Otherwise the workload's last axis is not its filter axis.
                if structure.filters == filters:
                    tiles[math.prod(structure.compute[1:])] = None
        return tuple(tile for tile in tiles if tile > 1)

    def build(self, model: Any, path: os.PathLike[str] | str) -> None:
        """See Runtime. Writes a shared library of the fastest measured programs and the weights."""
        self.session.build(model, os.fspath(path))

    def close(self) -> None:
        """See Runtime."""
        self._timer.close()
        self.session.close()


def require_tvm(runtime: Runtime, purpose: str) -> TvmRuntime:
    """Returns the runtime as a TvmRuntime, for features that need TVM's programs.

    Args:
        runtime: Any runtime.
        purpose: The feature that needs TVM, as the subject of the error's sentence.

    Raises:
        ConfigError: If the runtime is not TVM.
    """
    if not isinstance(runtime, TvmRuntime):
        raise ConfigError(
            f"{purpose} needs TVM's programs; the runtime is {runtime}. Use the runtime tvm."
        )
    return runtime
