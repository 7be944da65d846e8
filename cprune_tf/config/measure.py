"""The configuration of latency measurements."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import require


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """How a whole-model latency is measured: warm-up, then samples until the median is stable.

    Attributes:
        num_threads: Number of threads that the model is tuned, gated and compared with.
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
    warmup_ms: float = 100.0
    min_samples: int = 30
    max_time_sec: float = 2.0
    stable_fraction: float = 0.01
    cores: str = ""
    max_temperature_celsius: float = 0.0

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        limit = self.max_temperature_celsius
        require(limit >= 0, "measure.max_temperature_celsius", limit, "0 or more")
        for name in ("num_threads", "min_samples", "max_time_sec", "stable_fraction"):
            value = getattr(self, name)
            require(value > 0, f"measure.{name}", value, "a positive number")
        require(self.warmup_ms >= 0, "measure.warmup_ms", self.warmup_ms, "0 or more")
