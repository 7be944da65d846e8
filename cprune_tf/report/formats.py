"""How numbers are written for people; the same in the terminal and in HTML."""

from __future__ import annotations

from collections.abc import Sequence

from cprune_tf.runs.events import ACCEPTED, REFUSED_ACCURACY, REFUSED_LATENCY
from cprune_tf.runs.progress import format_duration

MISSING = "not measured"

# Between a number and its unit: no line may break there.
_GAP = "\N{NO-BREAK SPACE}"
_FEW_COUNTS = 3

RUNTIME_NAMES = {"keras": "Keras", "tvm": "TVM", "litert": "LiteRT"}

DECISION_NAMES = {
    ACCEPTED: "accepted",
    REFUSED_LATENCY: "refused: latency",
    REFUSED_ACCURACY: "refused: accuracy",
}


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits; exponents only outside 0.0001 to a million."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = int(f"{rounded:e}".split("e")[1])
    return f"{rounded:,.{max(digits - 1 - exponent, 0)}f}"


def milliseconds(value: float) -> str:
    """A latency; below 0.1 ms in microseconds."""
    if abs(value) < 0.1:
        return f"{significant(value * 1000)}{_GAP}µs"
    return f"{significant(value)}{_GAP}ms"


def percent(value: float) -> str:
    """A fraction as per cent with two decimals, as accuracies are compared."""
    return f"{100 * value:.2f}{_GAP}%"


def share(value: float) -> str:
    """A fraction as per cent without decimals."""
    return f"{100 * value:.0f}{_GAP}%" if value >= 0.01 or value == 0 else f"<{_GAP}1{_GAP}%"


def change(ratio: float) -> str:
    """What a ratio after / before means: "-37.5 %"."""
    difference = 100 * (ratio - 1)
    if abs(difference) < 0.05:
        return f"±0{_GAP}%"
    sign = "+" if difference > 0 else "−"
    return f"{sign}{abs(difference):.1f}{_GAP}%"


def points(difference: float) -> str:
    """A difference of accuracies in percentage points."""
    value = round(100 * difference, 2)
    if value == 0:
        return f"±0.00{_GAP}pp"
    return f"{'+' if value > 0 else '−'}{abs(value):.2f}{_GAP}pp"


def factor(value: float) -> str:
    """A speed-up: "1.83×"."""
    return f"{value:.2f}×"


def ratio(value: float) -> str:
    """A latency / the current model's, as finely as the gate compares: "0.886x"."""
    return f"{value:.3f}x"


def ratios(lowest: float, highest: float) -> str:
    """A range of latencies / the current model's: "0.995x to 1.021x"."""
    low, high = ratio(lowest), ratio(highest)
    return low if low == high else f"{low} to {high}"


def count(value: float) -> str:
    """A whole number with separators."""
    return f"{value:,.0f}"


def counts(values: Sequence[int], limit: int) -> str:
    """Counts up to a limit, shortly: "all up to 64", "multiples of 8 or 12 up to 64", "16, 40".

    Args:
        values: Ascending.
        limit: What the counts go up to.
    """
    if len(values) <= _FEW_COUNTS:
        return ", ".join(map(str, values)) or "none"
    known, factors = set(values), list[int]()
    for value in values:
        if all(value % factor for factor in factors):
            factors.append(value)
    if any(n not in known for factor in factors for n in range(factor, limit + 1, factor)):
        return ", ".join(map(str, values))
    if factors == [1]:
        return f"all up to {limit}"
    *first, last = map(str, factors)
    named = f"{', '.join(first)} or {last}" if first else last
    return f"multiples of {named} up to {limit}"


def macs(value: float) -> str:
    """Multiply-accumulates in millions or thousands."""
    if value >= 1e9:
        return f"{significant(value / 1e9)}{_GAP}G"
    if value >= 1e6:
        return f"{significant(value / 1e6)}{_GAP}M"
    if value >= 1e3:
        return f"{significant(value / 1e3)}{_GAP}k"
    return f"{value:.0f}"


def file_bytes(value: float) -> str:
    """A size in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{significant(value / size)}{_GAP}{unit}"
    return f"{value:.0f}{_GAP}B"


def error(value: float) -> str:
    """A numerical error."""
    return "0" if value == 0 else f"{value:.1e}"


def threads(value: int) -> str:
    """A thread count."""
    return "1 thread" if value == 1 else f"{value} threads"


def duration(value: float) -> str:
    """A duration: "12 s", "3:05 min", "2:07:30 h"."""
    text = format_duration(value)
    unit = {0: "", 1: " min", 2: " h"}[text.count(":")]
    return f"{text}{unit}".replace(" ", _GAP)


def size(name: str, value: float) -> str:
    """A `Report.sizes` entry, by its name."""
    if name == "parameters":
        return count(value)
    return macs(value) if name == "MACs" else file_bytes(value)


def runtime(name: str, processor: str = "") -> str:
    """A runtime's name for people, with what it ran on where that is not the only processor."""
    known = RUNTIME_NAMES.get(name, name)
    return f"{known} on {processor}" if processor else known


def decision(name: str) -> str:
    """A decision's name for people."""
    return DECISION_NAMES.get(name, name.replace("_", " "))


def metric(name: str | None) -> str:
    """What an accuracy means."""
    return {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}.get(name or "", "accuracy")
