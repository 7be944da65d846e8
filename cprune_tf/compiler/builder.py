"""Builds measured programs in worker processes that stay.

MetaSchedule's LocalBuilder starts fresh processes for every batch, and each imports all of TVM's
tensor intrinsics; a build itself is a tenth of a second. Ours import TVM once and serve the whole
run; a build that crashes or hangs costs that build only.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Sequence

import tvm
from tvm.support.popen_pool import MapResult, PopenPoolExecutor, StatusKind

from cprune_tf.compiler import linker

# Workers are recycled after this many builds, since LLVM never gives all its memory back.
_BUILDS_PER_WORKER = 400


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """One program's library, or why there is none.

    Attributes:
        library: Path of the shared library; its function is "main".
        error: The reason, where library is None.
    """

    library: pathlib.Path | None
    error: str | None


class ProgramBuilder:
    """A pool of build processes.

    Args:
        target: What is built for.
        num_workers: Processes; 0: one per core.
        timeout_sec: A build that takes longer is given up.
    """

    def __init__(
        self, target: tvm.target.Target, *, num_workers: int = 0, timeout_sec: float = 30.0
    ) -> None:
        self._target = target
        self._directory = tempfile.TemporaryDirectory(prefix="cprune_build_")
        self._num_built = 0
        self._pool = PopenPoolExecutor(
            max_workers=num_workers or os.cpu_count(),
            timeout=timeout_sec,
            maximum_process_uses=_BUILDS_PER_WORKER,
        )

    def build(self, mods: Sequence[tvm.IRModule]) -> list[BuildResult]:
        """Builds scheduled modules.

        Args:
            mods: Modules with one function "main", after postprocessing.

        Returns:
            One result for each module, in order.
        """
        jobs = []
        for mod in mods:
            path = os.path.join(self._directory.name, f"{self._num_built}.so")
            jobs.append((mod, self._target, path))
            self._num_built += 1
        results = self._pool.map_with_error_catching(_build_job, jobs)
        return [_to_result(result, job[2]) for result, job in zip(results, jobs, strict=True)]

    def discard(self, results: Sequence[BuildResult]) -> None:
        """Deletes libraries that were measured."""
        for result in results:
            if result.library is not None:
                result.library.unlink(missing_ok=True)

    def close(self) -> None:
        """Ends the processes and deletes the libraries."""
        self._pool.shutdown(wait=False)
        self._directory.cleanup()

    def __enter__(self) -> ProgramBuilder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _to_result(result: MapResult, path: str) -> BuildResult:
    if result.status == StatusKind.COMPLETE:
        return BuildResult(pathlib.Path(path), None)
    return BuildResult(None, f"{type(result.value).__name__}: {result.value}")


def _build_job(job: tuple[tvm.IRModule, tvm.target.Target, str]) -> None:
    build_program(*job)


def build_program(mod: tvm.IRModule, target: tvm.target.Target, path: str) -> None:
    """Compiles and links one scheduled module.

    Args:
        mod: Module with function "main"; rewritten weight layouts become its parameters' own.
        target: What is built for.
        path: The shared library to write.
    """
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    built = tvm.tirx.build(
        RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(mod), target=target
    )
    built.export_library(path, fcompile=linker.linker_for(target))
