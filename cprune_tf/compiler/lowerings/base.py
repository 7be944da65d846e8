"""The interface of a lowering: one way to compute an operator, and what the compiler asks about it.

docs/lowerings.md describes how to add one.
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
        call: The call, whose arguments are variables of the imported module's `main`.
        parameters: The values of the arguments that are parameters of the model, by the parameters'
            names in ImportedModel.params.
    """

    call: relax.Call
    parameters: Mapping[str, npt.NDArray[np.generic]]

    @property
    def operator(self) -> str:
        """The operator's name, e.g. "relax.nn.conv2d"."""
        return str(self.call.op.name)

    def value(self, index: int) -> npt.NDArray[np.generic] | None:
        """The value of an argument, or None if it is not a parameter of the model.

        Args:
            index: The argument's index in the call.
        """
        return self.parameters.get(self.call.args[index].name)


@dataclasses.dataclass(frozen=True)
class Seed:
    """Decisions for one sketch of a workload's design space.

    Attributes:
        tiles: The factors of each sampled tiling in the sketch's order, outermost first.
        sketch: The index of the sketch.
        unroll: The decision of each instruction that samples a category: how far to unroll.
        location: The decision of each instruction that samples the loop to compute a block at.
    """

    tiles: tuple[tuple[int, ...], ...]
    sketch: int = 0
    unroll: int = 0
    location: int = -1


class Lowering(abc.ABC):
    """One way to compute operators.

    Attributes:
        name: The lowering's name in reports, unique among the lowerings.
        anchor: The name of the block that does most of the work, which is the name of its
            `te.compute`. A workload's lowering is recognised by this block, so no other lowering
            may have a block of that name.
    """

    name: ClassVar[str]
    anchor: ClassVar[str]

    @abc.abstractmethod
    def matches(self, operator: OperatorCall, target: tvm.target.Target) -> bool:
        """Whether this lowering can compute a call and may be faster than others.

        Args:
            operator: The call of an operator.
            target: The target that is compiled for.
        """

    @abc.abstractmethod
    def legalize(self, builder: relax.BlockBuilder, operator: OperatorCall) -> relax.Expr:
        """Computes an operator with tensor expressions or TIR functions.

        Only one call of such a function may read data; its result is the operator's result. All
        other calls may read parameters only: they transform weights, and run when a library is
        built. Weights that this method transforms itself are passed as `relax.const`.

        Args:
            builder: The builder to which functions and the calls that transform weights are added.
            operator: A call of an operator that `matches` accepted.

        Returns:
            The call that reads data.
        """

    def schedule_function(self, target: tvm.target.Target) -> ScheduleFunction | None:
        """The function that schedules this lowering's workloads, with sampling instructions.

        Args:
            target: The target that is compiled for.

        Returns:
            The function; None if MetaSchedule's rules schedule the workloads.
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
        """Suggests programs that are worth measuring before any search.

        Args:
            mod: A workload of this lowering.
            target: The target that is compiled for, a CPU.
            sketches: The workload's design space.
            limit: The number of programs needed. More decisions may be yielded, because some may
                not fit the workload.
            seed: The random seed for choices that are drawn.

        Yields:
            The programs' decisions, best guesses first; nothing if no good program is known.
        """
        del mod, target, sketches, limit, seed
        yield from ()

    def filter_axis(self, output_rank: int) -> int:
        """The index of the filter axis in the buffer that the anchor block writes.

        Args:
            output_rank: The number of axes of the workload's output; its last axis is the filters.
        """
        # The index is counted from the front. If a reduction is split into two stages (rfactor),
        # the first stage adds a last axis for its partial sums.
        return output_rank - 1

    def index_limits(self, mod: tvm.IRModule) -> Mapping[int, int]:
        """The ranges of the arguments that are indices.

        Programs are measured on random arguments. An index must stay in its range, and it should
        be spread over it, since reading one place over and over is faster.

        Args:
            mod: A workload of this lowering.

        Returns:
            The numbers of integer arguments, each with the limit that its values stay below; the
            values are 0 or more.
        """
        del mod
        return {}
