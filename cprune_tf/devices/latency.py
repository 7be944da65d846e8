"""Latencies: distributions of measured durations, with the conditions of the measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The conditions under which a latency was measured.

    Attributes:
        cores: The cores the process was pinned to; empty if it used all cores allowed to it.
        temperature_celsius: The highest temperature read; None if the device reports none.
        cooled_sec: Time in seconds that the measurement paused for the device to cool down.
        throttled: Whether the system lowered the cores' highest frequency during the measurement.
        emulated: Whether the device is emulated, so that the latency means nothing.
        processor: What computed on a device whose GPU is used: the GPU, or "CPU" for models that do
            not run on it (LiteRT); "" if only the CPU is used.
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
        parts = [f"on {self.processor}"] if self.processor else []
        parts += [f"cores {','.join(map(str, self.cores))}"] if self.cores else []
        if self.temperature_celsius is not None:
            parts.append(f"{self.temperature_celsius:.0f} °C")
        parts += ["throttled"] * self.throttled + ["emulated"] * self.emulated
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True)
class Latency:
    """The distribution of a measured latency.

    Attributes:
        median_ms: The median in ms, the value that comparisons use.
        q1_ms: The lower quartile in ms.
        q3_ms: The upper quartile in ms.
        min_ms: The fastest sample in ms.
        count: Number of samples.
        num_threads: Number of threads during the measurement.
        conditions: The other conditions of the measurement.
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
            num_threads: Number of threads during the measurement.
            conditions: The other conditions of the measurement.

        Returns:
            The summary of the samples.

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
        fields = values.get("conditions")
        conditions = Conditions() if fields is None else Conditions.from_json(fields)
        return cls(**{**values, "conditions": conditions})

    def __str__(self) -> str:
        threads = f"{self.num_threads} thread{'' if self.num_threads == 1 else 's'}"
        conditions = f", {self.conditions}" if str(self.conditions) else ""
        return (
            f"{self.median_ms:.4g} ms (quartiles {self.q1_ms:.4g} to {self.q3_ms:.4g}, "
            f"{self.count} samples, {threads}{conditions})"
        )
