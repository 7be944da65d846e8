"""The environment variables of a device's process; only the standard library may load before."""

from __future__ import annotations

import os

# How often a worker of TVM's pool spins (0.5 us each) before it sleeps. TVM's default of 300,000
# keeps all cores busy for 150 ms after the last parallel loop, so the next model to be timed (above
# all in LiteRT) would run beside spinning threads. 1 ms still bridges the gaps inside a model.
_SPIN_COUNT = 2000


def process_environment(num_cores: int) -> dict[str, str]:
    """Returns the variables that a device's process needs for its measurements to be right.

    Args:
        num_cores: The largest number of threads that any call will use.

    Returns:
        Values of environment variables by name.
    """
    return {
        # The size of TVM's thread pool can only go down later, and defaults to half of the cores.
        "TVM_NUM_THREADS": str(num_cores),
        # TVM would pin its main thread to core 0; LiteRT's threads, started from it, inherit that.
        "TVM_BIND_THREADS": "0",
        "TVM_THREAD_POOL_SPIN_COUNT": str(_SPIN_COUNT),
        # A board has only TVM's runtime, without the compiler; it also starts faster.
        "TVM_USE_RUNTIME_LIB": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def available_cores() -> int:
    """The number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
