r"""Prunes the image architectures of KerasHub, and writes docs/keras_hub.md.

    python benchmarks/hub.py                          # every architecture that has no result yet
    python benchmarks/hub.py --models=ViT/tiny,MiT/b0 # these, again
    python benchmarks/hub.py --tables_only            # the page from the committed results

It needs `pip install --no-deps keras-hub` and `pip install "cprune_tf[keras_hub]"`. No weights are
downloaded: they are random.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses
import gc
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import app, flags

try:
    import record
except ImportError:  # of a test, for which this folder is a package
    from benchmarks import record

RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "hub.json"
PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "keras_hub.md"

_MODELS = flags.DEFINE_list("models", [], "Names of architectures; empty for those without result.")
_TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "Only write the page.")


def main(argv: Sequence[str]) -> None:
    """Checks the architectures and writes the page."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if not _TABLES_ONLY.value:
        _run(_MODELS.value)
    PAGE.write_text(page(read_results()), encoding="utf-8")


def read_results() -> dict[str, Any]:
    """Returns the outcomes by architecture; none if there is no file."""
    if not RESULTS.exists():
        return {}
    return dict(json.loads(RESULTS.read_text(encoding="utf-8"))["architectures"])


def _run(chosen: Sequence[str]) -> None:
    import hub_zoo
    import keras

    results = read_results()
    for name in chosen or [name for name in hub_zoo.names() if name not in results]:
        outcome = hub_zoo.check(name)
        results[name] = dataclasses.asdict(outcome)
        record.write(
            "hub",
            {
                "keras_hub": hub_zoo.hub().__version__,
                "keras": keras.__version__,
                "architectures": {key: results[key] for key in sorted(results)},
            },
        )
        print(f"{name}: {_row(results[name])}", flush=True)
        keras.backend.clear_session()
        gc.collect()


_INTRODUCTION = """\
# KerasHub, pruned

This page is written by `python benchmarks/hub.py`; do not edit it. It has {count} image
architectures of KerasHub ({pruned} pruned, {refused} refused). With those of
[keras.applications](applications.md), {total} architectures are checked.

Weights are random, images small; widths and depths are the presets' unless
`benchmarks/hub_zoo.py` says otherwise. 30 % of each prunable group is removed at random. *Masked*
compares the rebuilt model with the original whose removed channels are masked, *LiteRT* the
converted file with Keras: the largest difference between the outputs, relative to the largest
output. Every rebuilt model was also saved and loaded; the largest error of that was {loaded:.1e}.
*TVM* says whether the importer takes the rebuilt model. It was not compiled here; tests do that for
some.

KerasHub's blocks are layers of their own. They are followed inside
([extending.md](extending.md#layers-that-call-other-layers)); a layer that cannot be followed stays
whole and protects the channels that touch it. The tables below name each with its reason.

| architecture | groups | prunable | prunable units | params | after | masked | LiteRT | TVM |
|---|--:|--:|--:|--:|--:|--:|---|---|
"""


def page(results: dict[str, Any]) -> str:
    """The page about these results."""
    checked = [r["checks"] for r in results.values() if r["checks"]]
    head = _INTRODUCTION.format(
        count=len(results),
        pruned=len(checked),
        refused=len(results) - len(checked),
        total=len(results) + _count_of_applications(),
        loaded=max((c["loaded_error"] for c in checked), default=0.0),
    )
    lines = [f"| {name} | {_row(result)} |" for name, result in results.items()]
    lines += ["", *_table("Not pruned", "why", _refusals(results))]
    lines += ["", *_table("Layers that stay whole", "why", _whole(results))]
    lines += ["", *_table("Protected groups that reach no output", "why", _protected(results))]
    lines += ["", *_table("Not imported into TVM", "why", _unlike_yes(results, "tvm"))]
    lines += ["", *_table("Not converted for LiteRT", "why", _unlike_yes(results, "litert"))]
    return head + "\n".join(lines) + "\n"


def _count_of_applications() -> int:
    """The number of architectures on the page of keras.applications."""
    content = json.loads((RESULTS.parent / "graph.json").read_text(encoding="utf-8"))
    return len(content["architectures"])


def _row(result: dict[str, Any]) -> str:
    checks = result["checks"]
    if checks is None:
        return " | ".join(["-"] * 5 + ["refused", "-", "-"])
    return " | ".join(
        [
            *record.pruning_cells(checks),
            f"{checks['tflite_error']:.1e}" if result["litert"] == "yes" else "refused",
            "yes" if result["tvm"] == "yes" else "refused",
        ]
    )


_Rows = dict[tuple[str, str], list[str]]


def _table(title: str, column: str, rows: _Rows) -> list[str]:
    """A table of what several architectures share."""
    if not rows:
        return [f"## {title}", "", "None."]
    lines = [f"## {title}", "", f"| what | {column} | architectures |", "|---|---|---|"]
    return lines + [f"| {what} | {why} | {', '.join(n)} |" for (what, why), n in rows.items()]


def _refusals(results: dict[str, Any]) -> _Rows:
    rows: _Rows = {}
    for name, result in results.items():
        if result["refused"]:
            rows.setdefault(("the model", result["refused"]), []).append(name)
    return rows


def _whole(results: dict[str, Any]) -> _Rows:
    rows: _Rows = {}
    for name, result in results.items():
        for layer, why in result["whole"].items():
            rows.setdefault((layer, why), []).append(name)
    return rows


def _protected(results: dict[str, Any]) -> _Rows:
    """Groups by reason; blocks differ only in numbers, which are written as #."""
    rows: _Rows = {}
    for name, result in results.items():
        reasons: dict[str, int] = {}
        for why in ((result["checks"] or {}).get("protected") or {}).values():
            if "reaches the model's output" not in why:
                short = re.sub(r"\d+", "#", why.split("; register")[0])
                reasons[short] = reasons.get(short, 0) + 1
        for why, count in reasons.items():
            rows.setdefault((f"{count} group(s)", why), []).append(name)
    return rows


def _unlike_yes(results: dict[str, Any], key: str) -> _Rows:
    rows: _Rows = {}
    for name, result in results.items():
        if result[key] not in ("yes", "-"):
            rows.setdefault(("the rebuilt model", result[key]), []).append(name)
    return rows


if __name__ == "__main__":
    app.run(main)
