"""Latencies: distributions of measured durations, with what they were measured under."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What a latency was measured under.

    Attributes:
        cores: The cores it was pinned to; empty: all that the process may use.
        temperature_celsius: The highest that was seen; None: the device tells none.
        cooled_sec: How long the device was waited for to cool down.
        throttled: The system lowered the cores' highest frequency meanwhile.
        emulated: The device is emulated: the latency means nothing.
        processor: What computed on a device whose GPU is used: the GPU, or "CPU" for what does not
            run on it (LiteRT); "": there is only the CPU.
    """

    cores: tuple[int, ...] = ()
    temperature_celsius: float | None = None
    cooled_sec: float = 0.0
    throttled: bool = False
    emulated: bool = False
    processor: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Conditions:
        """The reverse of dataclasses.asdict, from JSON types."""
        return cls(**{**values, "cores": tuple(values["cores"])})

    def __str__(self) -> str:
        said = [f"on {self.processor}"] if self.processor else []
        said += [f"cores {','.join(map(str, self.cores))}"] if self.cores else []
        if self.temperature_celsius is not None:
            said.append(f"{self.temperature_celsius:.0f} °C")
        said += ["throttled"] * self.throttled + ["emulated"] * self.emulated
        return ", ".join(said)


@dataclasses.dataclass(frozen=True)
class Latency:
    """The distribution of a measured latency.

    Attributes:
        median_ms: The median: what is compared.
        q1_ms: Lower quartile.
        q3_ms: Upper quartile.
        min_ms: The fastest sample.
        count: Samples.
        num_threads: Threads it was measured with.
        conditions: What else it was measured under.
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    min_ms: float
    count: int
    num_threads: int
    conditions: Conditions = Conditions()

    @property
    def iqr_ms(self) -> float:
        """The interquartile range, in ms."""
        return self.q3_ms - self.q1_ms

    @classmethod
    def from_samples(
        cls,
        samples_ms: Sequence[float],
        num_threads: int,
        conditions: Conditions = Conditions(),
    ) -> Latency:
        """Summarises samples.

        Args:
            samples_ms: Durations of single runs, in ms.
            num_threads: Threads they were measured with.
            conditions: What else they were measured under.

        Returns:
            Their summary.

        Raises:
            ValueError: There are no samples, or one is not a positive number.
        """
        samples = np.asarray(samples_ms, dtype=np.float64)
        if samples.size == 0 or not np.all(np.isfinite(samples)) or samples.min() <= 0:
            raise ValueError(
                f"A latency needs at least one sample, all of them positive; received "
                f"{samples.size} samples{': ' + str(samples[:5]) if samples.size else ''}."
            )
        q1, median, q3 = (float(q) for q in np.percentile(samples, (25, 50, 75)))
        lowest = float(samples.min())
        return cls(median, q1, q3, lowest, int(samples.size), num_threads, conditions)

    def to_json(self) -> dict[str, Any]:
        """The same fields as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Latency:
        """The reverse of to_json."""
        conditions = values.get("conditions")
        known = Conditions() if conditions is None else Conditions.from_json(conditions)
        return cls(**{**values, "conditions": known})

    def __str__(self) -> str:
        threads = f"{self.num_threads} thread{'' if self.num_threads == 1 else 's'}"
        conditions = f", {self.conditions}" if str(self.conditions) else ""
        return (
            f"{self.median_ms:.4g} ms (quartiles {self.q1_ms:.4g} to {self.q3_ms:.4g}, "
            f"{self.count} samples, {threads}{conditions})"
        )
