"""Formats numbers for people, in the same way for the terminal and for HTML."""

from __future__ import annotations

from collections.abc import Sequence

from cprune_tf.accuracy import Metric
from cprune_tf.runs.events import ACCEPTED, REFUSED_ACCURACY, REFUSED_LATENCY
from cprune_tf.runs.progress import format_duration

MISSING = "not measured"

# Separates a number from its unit, without allowing a line break.
_GAP = "\N{NO-BREAK SPACE}"
_FEW_COUNTS = 3

# The row of the accuracies that decided.
VALIDATION = "validation"
RUNTIME_NAMES = {
    "keras": "Keras",
    "tvm": "TVM",
    "litert": "LiteRT",
}

DECISION_NAMES = {
    ACCEPTED: "accepted",
    REFUSED_LATENCY: "refused: latency",
    REFUSED_ACCURACY: "refused: {word}",
}


def significant(value: float, digits: int = 3) -> str:
    """Formats a number with `digits` significant digits; exponents only below 1e-4 and from 1e6."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = int(f"{rounded:e}".split("e")[1])
    return f"{rounded:,.{max(digits - 1 - exponent, 0)}f}"


def milliseconds(value: float) -> str:
    """Formats a latency given in milliseconds; below 0.1 ms in microseconds."""
    (number,) = milliseconds_like(value, value)
    return f"{number}{_GAP}{'µs' if _is_short(value) else 'ms'}"


def milliseconds_like(leading: float, *values: float) -> tuple[str, ...]:
    """Formats latencies given in milliseconds in the unit of another one, which is left out."""
    factor = 1000 if _is_short(leading) else 1
    return tuple(significant(value * factor) for value in values)


def _is_short(value: float) -> bool:
    return abs(value) < 0.1


def percent(value: float) -> str:
    """Formats a fraction as per cent with two decimals, for accuracies."""
    return f"{100 * value:.2f}{_GAP}%"


def score(metric: Metric, value: float) -> str:
    """Formats a score as the metric's value: per cent for accuracies, a number for the others."""
    return percent(value) if metric.is_accuracy else significant(metric.score(value), 4)


def score_change(metric: Metric, difference: float) -> str:
    """Formats a difference of scores: in percentage points, or in the metric's own unit."""
    if metric.is_accuracy:
        return points(difference)
    value = metric.score(difference)
    if value == 0:
        return "±0"
    return f"{'+' if value > 0 else '−'}{significant(abs(value))}"


def share(value: float) -> str:
    """Formats a fraction as per cent without decimals."""
    return f"{100 * value:.0f}{_GAP}%" if value >= 0.01 or value == 0 else f"<{_GAP}1{_GAP}%"


def change(ratio: float) -> str:
    """Formats a ratio after / before as a change: "-37.5 %"."""
    difference = 100 * (ratio - 1)
    if abs(difference) < 0.05:
        return f"±0{_GAP}%"
    sign = "+" if difference > 0 else "−"
    return f"{sign}{abs(difference):.1f}{_GAP}%"


def points(difference: float) -> str:
    """Formats a difference of accuracies in percentage points."""
    value = round(100 * difference, 2)
    if value == 0:
        return f"±0.00{_GAP}pp"
    return f"{'+' if value > 0 else '−'}{abs(value):.2f}{_GAP}pp"


def error_of_points(value: float) -> str:
    """Formats the standard error of a difference of accuracies: "± 0.35 pp"."""
    return f"±{_GAP}{100 * value:.2f}{_GAP}pp"


def change_with_error(metric: Metric, difference: float, standard_error: float | None) -> str:
    """Formats a difference of scores, with its standard error where that is known."""
    text = score_change(metric, difference)
    return text if standard_error is None else f"{text} {error_of_points(standard_error)}"


def factor(value: float) -> str:
    """Formats a speed-up: "1.83×"."""
    return f"{value:.2f}×"


def ratio(value: float) -> str:
    """Formats a latency / the current model's, with the latency gate's precision: "0.886x"."""
    return f"{value:.3f}x"


def ratios(lowest: float, highest: float) -> str:
    """Formats a range of latencies / the current model's: "0.995x to 1.021x"."""
    low, high = ratio(lowest), ratio(highest)
    return low if low == high else f"{low} to {high}"


def count(value: float) -> str:
    """Formats a whole number with thousands separators."""
    return f"{value:,.0f}"


def counts(values: Sequence[int], limit: int) -> str:
    """Describes channel counts: "all up to 64", "multiples of 8 or 12 up to 64", "16, 40".

    Args:
        values: The counts, ascending.
        limit: The largest possible count.

    Returns:
        A short description; a list of the counts if they are not all multiples up to the limit.
    """
    if len(values) <= _FEW_COUNTS:
        return ", ".join(map(str, values)) or "none"
    factors: list[int] = []
    for value in values:
        if all(value % factor for factor in factors):
            factors.append(value)
    present = set(values)
    if any(n not in present for factor in factors for n in range(factor, limit + 1, factor)):
        return ", ".join(map(str, values))
    if factors == [1]:
        return f"all up to {limit}"
    *others, last = map(str, factors)
    factor_list = f"{', '.join(others)} or {last}" if others else last
    return f"multiples of {factor_list} up to {limit}"


def macs(value: float) -> str:
    """Formats a number of multiply-adds in billions, millions or thousands."""
    if value >= 1e9:
        return f"{significant(value / 1e9)}{_GAP}G"
    if value >= 1e6:
        return f"{significant(value / 1e6)}{_GAP}M"
    if value >= 1e3:
        return f"{significant(value / 1e3)}{_GAP}k"
    return f"{value:.0f}"


def file_bytes(value: float) -> str:
    """Formats a size in bytes with decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{significant(value / size)}{_GAP}{unit}"
    return f"{value:.0f}{_GAP}B"


def error(value: float) -> str:
    """Formats a numerical error."""
    return "0" if value == 0 else f"{value:.1e}"


def threads(value: int) -> str:
    """Formats a number of threads."""
    return "1 thread" if value == 1 else f"{value} threads"


def duration(value: float) -> str:
    """Formats a duration given in seconds: "12 s", "3:05 min", "2:07:30 h"."""
    text = format_duration(value)
    unit = {0: "", 1: " min", 2: " h"}[text.count(":")]
    return f"{text}{unit}".replace(" ", _GAP)


def size(name: str, value: float) -> str:
    """Formats an entry of `Report.sizes` with the unit that its name implies."""
    if name == "parameters":
        return count(value)
    return macs(value) if name == "MACs" else file_bytes(value)


def runtime(name: str, processor: str = "", items: str = "images") -> str:
    """Returns a runtime's name for people, with the processor if the device has several kinds.

    Args:
        name: "keras", or the label of a file (see `runs.results.file_label`); VALIDATION, alone for
            Keras or before such a label.
        processor: The processor, if the device has several kinds.
        items: What the data are called; see `Metric.items`.
    """
    known, _, precision = name.partition(" ")
    if known == VALIDATION:
        return f"{runtime(precision or 'keras')}, validation {items}"
    label = " ".join(filter(None, (RUNTIME_NAMES.get(known, known), precision)))
    return f"{label} on {processor}" if processor else label


def decision(name: str, metric: Metric) -> str:
    """Returns a decision's name for people, e.g. "refused: mean IoU"."""
    return DECISION_NAMES.get(name, name.replace("_", " ")).format(word=metric.word)


def metric(name: str | None) -> str:
    """Returns a metric's name for people; "accuracy" if the metric is unknown."""
    return Metric(name or "accuracy").label
