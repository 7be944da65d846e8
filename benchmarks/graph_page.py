"""The page about keras.applications, from the result of graph.py."""

from __future__ import annotations

from typing import Any

try:
    import record
except ImportError:  # of a test, for which this folder is a package
    from benchmarks import record

_INTRODUCTION = """\
# keras.applications, pruned

This page is written by `python benchmarks/graph.py`; do not edit it. Every architecture has random
weights and the smallest input that works; 30 % of each prunable group is removed at random.

*Calls* counts calls of layers and operations. Errors are the largest difference between the outputs
of two models, relative to the largest output. *Masked* compares the rebuilt model with the original
whose removed channels are masked. *TFLite* compares the rebuilt model run by LiteRT with the same
model in Keras. Every rebuilt model was also saved and loaded; the largest error of that was
{loaded:.1e}.

Times are wall-clock seconds ({machine}; running beside it: {beside}). *Build* is the time Keras
takes to make the original. *Memory* is the peak of resident memory with everything in it (the
original, the analysis, the rebuilt model), relative to the peak while Keras built the original
alone; both are counted above what the process held before the original was built, with Keras
loaded and used once. *Weights* is the growth of the same peak over the finished original, relative
to the bytes of the original's weights.

The requirements are: analysis and rebuild of ResNet50 in under 2 s ({resnet:.2f} s), of the largest
architecture in under 10 s ({slowest}: {seconds:.2f} s), and at most twice the original's own memory
for both ({hungriest}: {growth:.2f}x of what Keras took; with the original itself counted: {over}).
"""


def page(content: dict[str, Any]) -> str:
    """Returns docs/applications.md.

    Args:
        content: What graph.json holds.

    Returns:
        The page.
    """
    results = [r for r in content["architectures"] if "cost" in r and "checks" in r]
    machine = content["environment"]["machine"]
    total = {r["name"]: _total_sec(r["cost"]) for r in results}
    slowest = max(total, key=lambda name: total[name])
    memories = {r["name"]: memory(r["cost"]) for r in results}
    hungriest = max(memories, key=lambda name: memories[name])
    over = [f"{name} {value:.2f}x" for name, value in memories.items() if value > 2]
    lines = _INTRODUCTION.format(
        loaded=max(r["checks"]["loaded_error"] for r in results),
        machine=f"{machine['model']}, {machine['cores_usable']} cores",
        beside=content.get("beside") or "nothing",
        resnet=total["ResNet50"],
        slowest=slowest,
        seconds=total[slowest],
        hungriest=hungriest,
        growth=memories[hungriest] - 1,
        over=f"above 2x are {', '.join(over)}" if over else "none is above 2x",
    ).splitlines()
    lines += [
        "",
        "| architecture | calls | groups | prunable | prunable units | params | after | masked "
        "| TFLite | build | analysis | rebuild | memory | weights |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(_row(r["name"], r["checks"], r["cost"]) for r in results),
        "",
        "## What is protected, and why",
        "",
        "| architecture | group | reason |",
        "|---|---|---|",
    ]
    for r in results:
        reasons = r["checks"]["protected"].items()
        lines += [f"| {r['name']} | {group} | {reason} |" for group, reason in reasons]
    lines += ["", "![time against calls](images/graph_cost.svg)", ""]
    return "\n".join(lines)


def memory(cost: dict[str, Any]) -> float:
    """Returns the peak of memory with the rebuilt model, relative to that of Keras building."""
    return float(cost["rebuild_peak_bytes"] / cost["build_peak_bytes"])


def _total_sec(cost: dict[str, Any]) -> float:
    return float(cost["analysis"]["wall_sec"] + cost["rebuild"]["wall_sec"])


def _row(name: str, checks: dict[str, Any], cost: dict[str, Any]) -> str:
    growth = cost["rebuild_peak_bytes"] - cost["built_bytes"]
    cells = [
        name,
        str(cost["calls"]),
        *record.pruning_cells(checks),
        f"{checks['tflite_error']:.1e}",
        *(f"{cost[key]['wall_sec']:.2f}" for key in ("build", "analysis", "rebuild")),
        f"{memory(cost):.2f}x",
        f"{growth / cost['weight_bytes']:.2f}x",
    ]
    return f"| {' | '.join(cells)} |"
