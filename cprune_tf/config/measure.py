"""How latencies are measured."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import require


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """How a whole-model latency is measured: warm-up, then samples until stable.

    Attributes:
        num_threads: Threads the model is tuned, gated and compared with.
        warmup_ms: Running time thrown away at first.
        min_samples: Samples at least.
        max_time_sec: Samples stop then, for each of the models compared.
        stable_fraction: Samples stop when the median of both halves differs by less.
        cores: What to run on: "": all cores; "little", "middle" or "big": that kind of the device's
            cores; or numbers, e.g. "4-7".
        max_temperature_celsius: Above it, a device is left to cool down while models are timed; 0:
            never.
    """

    num_threads: int = 1
    warmup_ms: float = 100.0
    min_samples: int = 30
    max_time_sec: float = 2.0
    stable_fraction: float = 0.01
    cores: str = ""
    max_temperature_celsius: float = 0.0

    def validate(self) -> None:
        """Raises ConfigError where a field cannot work."""
        limit = self.max_temperature_celsius
        require(limit >= 0, "measure.max_temperature_celsius", limit, "0 or more")
        for name in ("num_threads", "min_samples", "max_time_sec", "stable_fraction"):
            value = getattr(self, name)
            require(value > 0, f"measure.{name}", value, "a positive number")
        require(self.warmup_ms >= 0, "measure.warmup_ms", self.warmup_ms, "0 or more")
