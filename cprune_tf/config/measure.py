"""The configuration of latency measurements."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import require


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """How a whole-model latency is measured: warm-up, then samples until the median is stable.

    Attributes:
        num_threads: Number of threads that the model is tuned, gated and compared with.
        further_threads: Further numbers of threads. They decide nothing: at the end, original and
            result are tuned for each, and a TVM library is built for it. See docs/deploy.md.
        warmup_ms: Running time before the first sample.
        min_samples: Minimum number of samples.
        max_time_sec: Maximum sampling time for each of the compared models.
        stable_fraction: Sampling stops when the medians of the first and the second half of the
            samples differ by less than this fraction.
        cores: The cores to run on. "": all cores; "little", "middle" or "big": the device's cores
            of that kind; or core numbers, e.g. "4-7".
        max_temperature_celsius: Above this temperature, timing pauses until the device has cooled
            down; 0: it never pauses.
    """

    num_threads: int = 1
    further_threads: tuple[int, ...] = ()
    warmup_ms: float = 100.0
    min_samples: int = 30
    max_time_sec: float = 2.0
    stable_fraction: float = 0.01
    cores: str = ""
    max_temperature_celsius: float = 0.0

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """All numbers of threads that the result is deployed for; the first one decides."""
        return (self.num_threads, *self.further_threads)

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        limit = self.max_temperature_celsius
        require(limit >= 0, "measure.max_temperature_celsius", limit, "0 or more")
        for name in ("num_threads", "min_samples", "max_time_sec", "stable_fraction"):
            value = getattr(self, name)
            require(value > 0, f"measure.{name}", value, "a positive number")
        counts = self.thread_counts
        require(
            min(counts) > 0 and len(set(counts)) == len(counts),
            "measure.further_threads",
            self.further_threads,
            f"positive numbers, each once, other than measure.num_threads ({self.num_threads})",
        )
        require(self.warmup_ms >= 0, "measure.warmup_ms", self.warmup_ms, "0 or more")
