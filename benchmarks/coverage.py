"""Writes docs/coverage.md: which layers and functions of Keras are pruned, compiled and converted.

    python benchmarks/coverage.py              # writes the page from the registries and the result
    python benchmarks/coverage.py --convert    # converts every tiny model with LiteRT first

Rules and converters are read from their registries. What LiteRT does is found by converting a tiny
model of each layer and function, running the file and comparing its outputs with Keras; this takes
some minutes. If TensorFlow's converter ends the process, start the script again: it goes on with
the next model.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import datetime
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from absl import app, flags

_CONVERT = flags.DEFINE_bool(
    "convert", False, "Whether to convert the models that the result does not have yet."
)

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "coverage.md"
RESULT = pathlib.Path(__file__).resolve().parent / "results" / "coverage.json"
_TOLERANCE = 1e-3
_NOT_TRIED = "not tried"

_HEAD = """# Coverage of Keras

Written by `benchmarks/coverage.py`; a test checks it against the registries. Do not edit it.

- **Rule**: `cprune_tf.graph` has a rule for it ([extending.md](extending.md)). Channels that reach
  anything else are protected, which is said with the reason. The model is pruned around it.
- **TVM**: the importer has a converter for it ([importer.md](importer.md)). A model with anything
  else is refused before any tuning, by one error that names all such layers. If LiteRT computes it,
  such a model is pruned with `--runtime=litert`.
- **LiteRT**: a tiny model of it was converted to `.tflite` with Keras {keras}, and the file
  computes the same as Keras. If not, the reason follows. "{not_tried}": it has no tiny model.

Settings that a rule or converter does not support are protected or refused in the same way; they
have no rows here. Layers of your own are followed inside if they only call what has a rule or
converter ([extending.md](extending.md#layers-that-call-other-layers)); others, and subclasses, need
rules and converters of their own. [keras_hub.md](keras_hub.md) has models of such layers.
"""
_OTHERS = """Not tried, because they make no tensor of a graph or need more than an image:
{others}.
Those without a tensor among their arguments give constants, which need no rule or converter."""


def main(argv: Sequence[str]) -> None:
    """Runs the script."""
    del argv
    if _CONVERT.value:
        convert_all()
    PAGE.write_text(page(read_result()), encoding="utf-8")
    print(f"Wrote {PAGE}")


def read_result() -> dict[str, Any]:
    """Returns what the conversions gave; nothing if there were none."""
    if not RESULT.exists():
        return {"keras": keras.__version__, "layers": {}, "ops": {}}
    result: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    return result


def convert_all() -> None:
    """Converts all models that the result does not have yet; writes the result after each."""
    import coverage_cases as cases

    result = read_result()
    result["keras"] = keras.__version__
    result["date"] = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    for part, rows, build in (
        ("layers", cases.layer_rows(), cases.layer_model),
        ("ops", cases.op_rows(), cases.op_model),
    ):
        known = {name: entry for name, entry in result[part].items() if name in rows}
        result[part] = known
        of_model = cases.kinds if part == "ops" else _no_kinds
        for name in rows:
            if name in known:
                continue
            # Left behind if TensorFlow ends the process.
            known[name] = {"kinds": [], "litert": "TensorFlow ended the process"}
            _write(result)
            known[name] = _entry(build, name, of_model)
            _write(result)
            print(f"{name}: {known[name]['litert']}", flush=True)
        result[part] = {name: known[name] for name in rows}
    _write(result)


def _write(result: Mapping[str, Any]) -> None:
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _entry(
    build: Callable[[str], keras.Model], name: str, kinds: Callable[[keras.Model], list[str]]
) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    try:
        model = build(name)
    except Exception:  # whatever Keras raises: the layer does not take a tensor alone
        return {"kinds": [], "litert": _NOT_TRIED}
    return {"kinds": kinds(model), "litert": _litert(model)}


def _no_kinds(model: keras.Model) -> list[str]:
    """Layers are found by their classes."""
    del model
    return []


def _litert(model: keras.Model) -> str:
    """Converts a model and runs the file; returns "yes" or the reason why it is not the same."""
    from ai_edge_litert.interpreter import Interpreter

    from cprune_tf import litert, native_output

    try:
        content = litert.convert(model)
    except litert.ConversionError as error:
        return _short(str(error))
    rng = np.random.default_rng(0)
    image = rng.uniform(0.05, 0.95, (1, *model.inputs[0].shape[1:])).astype("float32")
    try:
        with native_output.silenced():
            interpreter = Interpreter(model_content=content)
            run = interpreter.get_signature_runner()
            computed = run(input_00=image)
    except (RuntimeError, ValueError) as error:
        return f"the file does not run: {str(error).splitlines()[0][:100]}"
    expected = keras.tree.flatten(model(image, training=False))
    for number, value in enumerate(expected):
        other = computed[f"output_{number:02d}"]
        tolerance = {"rtol": _TOLERANCE, "atol": _TOLERANCE, "equal_nan": True}
        if not np.allclose(np.asarray(value), other, **tolerance):
            return "converted, but computes other values"
    return "yes"


def _short(message: str) -> str:
    """The operators of TensorFlow that LiteRT lacks, or that the model cannot be converted."""
    lacking = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", message)))
    if lacking:
        return f"LiteRT has no {', '.join(lacking)}"
    if "complex" in message:
        return "LiteRT has no complex numbers here"
    return "TensorFlow cannot convert it"


def page(result: Mapping[str, Any]) -> str:
    """The page, from the registries and the result of the conversions."""
    lines = [_HEAD.format(keras=result["keras"], not_tried=_NOT_TRIED)]
    lines += ["## Layers\n", *_table("layer", list(_layer_rows(result["layers"])))]
    lines += ["\n## Functions of `keras.ops`\n", *_table("function", list(_op_rows(result["ops"])))]
    others = ", ".join(f"`{name}`" for name, entry in result["ops"].items() if not entry["kinds"])
    lines += ["", _OTHERS.format(others=others)]
    return "\n".join(lines) + "\n"


_Row = tuple[str, bool, bool, str]


def _layer_rows(entries: Mapping[str, Any]) -> Iterator[_Row]:
    for name, entry in entries.items():
        kind = getattr(keras.layers, name)
        yield name, *_registered([kind]), entry["litert"]


def _op_rows(entries: Mapping[str, Any]) -> Iterator[_Row]:
    for name, entry in entries.items():
        if entry["kinds"]:
            yield name, *_registered(entry["kinds"]), entry["litert"]


def _registered(kinds: Sequence[type | str]) -> tuple[bool, bool]:
    from cprune_tf.compiler.importer import has_converter
    from cprune_tf.graph.rules import REGISTRY

    return all(map(REGISTRY.has, kinds)), all(map(has_converter, kinds))


def _table(what: str, rows: Sequence[_Row]) -> list[str]:
    with_all = sum(rule and tvm and litert == "yes" for _, rule, tvm, litert in rows)
    counts = [sum(row[column] in (True, "yes") for row in rows) for column in (1, 2, 3)]
    return [
        f"{len(rows)} rows: {counts[0]} with a rule, {counts[1]} with a converter for TVM, "
        f"{counts[2]} that LiteRT computes, {with_all} with all three.\n",
        f"| {what} | rule | TVM | LiteRT |",
        "|---|---|---|---|",
        *(f"| {name} | {_sign(rule)} | {_sign(tvm)} | {text} |" for name, rule, tvm, text in rows),
    ]


def _sign(present: bool) -> str:
    return "yes" if present else "-"


if __name__ == "__main__":
    app.run(main)
