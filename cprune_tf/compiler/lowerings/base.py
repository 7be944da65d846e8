"""What a lowering is: one way to compute an operator, with all that the compiler asks about it.

See docs/lowerings.md for how to add one.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import Trace

ScheduleFunction = Callable[[Schedule], Schedule]


@dataclasses.dataclass(frozen=True, eq=False)
class OperatorCall:
    """One call of a Relax operator in an imported model.

    Attributes:
        call: The call; its arguments are variables of the imported module's `main`.
        parameters: The values of those arguments that are parameters of the model, by the names
            that the parameters have in ImportedModel.params.
    """

    call: relax.Call
    parameters: Mapping[str, npt.NDArray[np.generic]]

    @property
    def operator(self) -> str:
        """The operator's name, e.g. "relax.nn.conv2d"."""
        return str(self.call.op.name)

    def value(self, index: int) -> npt.NDArray[np.generic] | None:
        """The value of an argument, or None where it is no parameter of the model.

        Args:
            index: The argument's.
        """
        return self.parameters.get(self.call.args[index].name)


@dataclasses.dataclass(frozen=True)
class Seed:
    """Decisions for a sketch of a workload's design space.

    Attributes:
        tiles: The factors of each sampled tiling in the sketch's order, outermost first.
        sketch: Index of the sketch.
        unroll: The choice wherever the sketch samples a category: how far to unroll.
        location: The choice wherever the sketch samples a loop to compute a block at.
    """

    tiles: tuple[tuple[int, ...], ...]
    sketch: int = 0
    unroll: int = 0
    location: int = -1


class Lowering(abc.ABC):
    """One way to compute operators.

    Attributes:
        name: Unique among the lowerings; stands in reports.
        anchor: The name of the block that does most of the work (its `te.compute`'s name). It is
            how a workload's lowering is recognised, so no other lowering may have such a block.
    """

    name: ClassVar[str]
    anchor: ClassVar[str]

    @abc.abstractmethod
    def matches(self, operator: OperatorCall, target: tvm.target.Target) -> bool:
        """Whether this lowering can compute a call, and may be faster at it than others.

        Args:
            operator: The call.
            target: What is compiled for.
        """

    @abc.abstractmethod
    def legalize(self, builder: relax.BlockBuilder, operator: OperatorCall) -> relax.Expr:
        """Computes a call with tensor expressions or functions of TIR.

        One call of such a function reads data, and its result is the operator's. What is emitted
        besides may read parameters only: it transforms weights, and runs when a library is built.
        Weights that are transformed here and now are passed on as `relax.const`.

        Args:
            builder: Where functions are added and the weights' transforms emitted.
            operator: A call that `matches`.

        Returns:
            The call that reads data.
        """

    def schedule_function(self, target: tvm.target.Target) -> ScheduleFunction | None:
        """What schedules this lowering's workloads, sampling; None: MetaSchedule's own rules.

        Args:
            target: What is compiled for.
        """
        del target
        return None

    def seeds(
        self,
        mod: tvm.IRModule,
        target: tvm.target.Target,
        sketches: Sequence[Trace],
        limit: int,
        seed: int,
    ) -> Iterator[Seed]:
        """The decisions of programs that are worth measuring before any search.

        Args:
            mod: A workload of this lowering.
            target: What is compiled for, a CPU.
            sketches: The workload's design space.
            limit: How many programs are wanted; some decisions may fit no program.
            seed: Of choices that are drawn.

        Yields:
            Best guesses first; nothing where nothing is known.
        """
        del mod, target, sketches, limit, seed
        yield from ()

    def filter_axis(self, output_rank: int) -> int:
        """Which axis of what the anchor block writes counts the filters.

        Args:
            output_rank: The number of axes of the workload's output; its last one is the filters.
        """
        # Counted from the front: where a reduction is split in two stages (rfactor), the first
        # writes its partial sums along a new last axis.
        return output_rank - 1
