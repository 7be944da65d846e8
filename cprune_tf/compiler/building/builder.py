"""Builds the programs to measure, in worker processes that serve the whole run.

MetaSchedule's LocalBuilder starts new processes for every batch, and each of them imports all of
TVM's tensor intrinsics, although a build itself takes a tenth of a second. These workers import TVM
once. If a build crashes or hangs, only that build is lost.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Sequence

import psutil
import tvm
from tvm.support.popen_pool import PopenPoolExecutor

from cprune_tf.compiler import tvm_internals
from cprune_tf.compiler.building import gpu_toolchain, linker
from cprune_tf.devices.agent.environment import available_cores

# Workers that have grown beyond this are replaced, because LLVM never frees all its memory.
_MAX_WORKER_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """One program's library, or the reason why it could not be built.

    Attributes:
        library: The path of the shared library, whose function is "main"; None if the build failed.
        error: The reason of the failure; None if the build succeeded.
    """

    library: pathlib.Path | None
    error: str | None


class ProgramBuilder:
    """A pool of build processes.

    Args:
        target: The target that is built for.
        num_workers: The number of processes; 0: one for each core that this process may run on.
        timeout_sec: The time in seconds after which a build is stopped.
        max_worker_bytes: The resident memory of a process above which all processes are replaced.
        linker: The command line of the user's linker, or ""; see devices.Device.linker.
    """

    def __init__(
        self,
        target: tvm.target.Target,
        *,
        num_workers: int = 0,
        timeout_sec: float = 30.0,
        max_worker_bytes: int = _MAX_WORKER_BYTES,
        linker: str = "",
    ) -> None:
        self._target = target
        self._linker = linker
        self._directory = tempfile.TemporaryDirectory(prefix="cprune_build_")
        self._num_built = 0
        self._num_workers = num_workers or available_cores()
        self._make_pool = functools.partial(
            PopenPoolExecutor, max_workers=self._num_workers, timeout=timeout_sec
        )
        self._pool = self._make_pool()
        self._max_worker_bytes = max_worker_bytes
        self._largest_worker_bytes = 0

    @property
    def num_workers(self) -> int:
        """How many programs are built at the same time."""
        return self._num_workers

    def submit(self, mods: Sequence[tvm.IRModule]) -> list[concurrent.futures.Future[BuildResult]]:
        """Starts to build scheduled modules.

        Args:
            mods: Modules with one function "main", after postprocessing.

        Returns:
            One future result for each module, in order. No future raises: a failure is a result.
        """
        self._replace_large_workers()
        results = []
        for mod in mods:
            path = pathlib.Path(self._directory.name) / f"{self._num_built}.so"
            job = self._pool.submit(_build_job, mod, self._target, str(path), self._linker)
            results.append(self._to_result(job, path))
            self._num_built += 1
        return results

    def build(self, mods: Sequence[tvm.IRModule]) -> list[BuildResult]:
        """Builds scheduled modules.

        Args:
            mods: Modules with one function "main", after postprocessing.

        Returns:
            One result for each module, in order.
        """
        return [result.result() for result in self.submit(mods)]

    def discard(self, results: Sequence[BuildResult]) -> None:
        """Deletes libraries that are no longer needed."""
        for result in results:
            if result.library is not None:
                result.library.unlink(missing_ok=True)

    def close(self) -> None:
        """Ends the processes and deletes the libraries."""
        self._pool.shutdown(wait=False)
        self._directory.cleanup()

    def _to_result(
        self, job: concurrent.futures.Future[int], path: pathlib.Path
    ) -> concurrent.futures.Future[BuildResult]:
        result: concurrent.futures.Future[BuildResult] = concurrent.futures.Future()

        def finish(finished: concurrent.futures.Future[int]) -> None:
            error = finished.exception()
            if error is None:
                self._largest_worker_bytes = max(self._largest_worker_bytes, finished.result())
                result.set_result(BuildResult(path, None))
            else:
                result.set_result(BuildResult(None, f"{type(error).__name__}: {error}"))

        job.add_done_callback(finish)
        return result

    def _replace_large_workers(self) -> None:
        """Replaces all processes if one has grown too large."""
        if self._largest_worker_bytes > self._max_worker_bytes:
            self._pool.shutdown(wait=True)
            self._pool = self._make_pool()
            self._largest_worker_bytes = 0

    def __enter__(self) -> ProgramBuilder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _build_job(mod: tvm.IRModule, target: tvm.target.Target, path: str, linker_command: str) -> int:
    """Builds a program in a worker and returns the worker's resident memory in bytes."""
    build_program(mod, target, path, linker_command)
    # The peak of getrusage is no measure: on Linux a new process inherits its parent's, and with
    # TensorFlow and a dataset in the parent all workers would be replaced for every batch.
    return psutil.Process().memory_info().rss


def build_program(
    mod: tvm.IRModule, target: tvm.target.Target, path: str, linker_command: str = ""
) -> None:
    """Compiles and links one scheduled module.

    Args:
        mod: A module with the function "main". If it rewrites the layouts of weights, its
            parameters are expected in the rewritten layouts.
        target: The target that is built for.
        path: The shared library to write.
        linker_command: The command line of the user's linker, or ""; see devices.Device.linker.
    """
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(mod)
    with target, gpu_toolchain.toolchain(target), tvm_internals.build_context():
        built = tvm.tirx.build(mod, target=target)
    built.export_library(path, fcompile=linker.linker_for(target, linker_command))
