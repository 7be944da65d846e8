r"""Compares int8 files of one model: as it is, with corrected biases, and trained for int8.

    PYTHONPATH=FOLDER python benchmarks/quantization_aware.py --config=experiment.py \
        --name="MobileNetV1 1.0 (224)" --config.quantization.aware.epochs=3

Model, data and the settings of int8 are those of the config. The training keeps its weights by the
validation images; the accuracies are those on all test images, through LiteRT on this machine, and
the test images are used once, at the end. Beside them stands how far the outputs are from those of
the float32 file, which tells more of a small difference than the accuracy does.

Writes the entry of the model in results/quantization_aware.json; with --quick, everything runs with
tiny settings in WORKDIR, and what comes out is no result.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import record
import settings
from absl import app, flags
from ml_collections import config_flags

from cprune_tf import config as configs
from cprune_tf import data as image_data
from cprune_tf import models
from cprune_tf.data.representative import representative_images
from cprune_tf.litert import evaluation
from cprune_tf.training.aware import train_aware
from cprune_tf.training.deployed import quantize_as_configured

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment.")
_NAME = flags.DEFINE_string("name", None, "The model's name in the result.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder for --quick.")
_QUICK = flags.DEFINE_bool("quick", False, "Try the script with tiny settings; no result.")
_TINY = {"quantization.num_images": 32, "quantization.aware.max_steps_per_epoch": 4}


@dataclasses.dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        file: How it was made.
        accuracy: Fraction of the test images classified right.
        signal_to_noise_db: Power of the float32 file's outputs over that of the difference to them.
    """

    file: str
    accuracy: float
    signal_to_noise_db: float


def compare(config: configs.PruneConfig) -> dict[str, Any]:
    """Makes the files of the config's model and evaluates them.

    Args:
        config: The experiment; `quantization.aware.epochs` is 1 or more.

    Returns:
        The result as JSON types.
    """
    model = models.load_model(config.model, unsafe_lambda=config.unsafe_lambda)
    data = image_data.load(
        config.data, input_shape=model.input_shape[1:], num_classes=model.output_shape[-1]
    )
    aware = config.quantization
    images = representative_images(data, aware.num_images, seed=config.seed)
    plain = dataclasses.replace(aware, aware=dataclasses.replace(aware.aware, epochs=0))
    corrected = dataclasses.replace(plain, correct_bias=True)
    files = {"int8, corrected biases": quantize_as_configured(model, images, corrected).content}
    start = time.perf_counter()
    trained = train_aware(model, data, aware, seed=config.seed, metric=config.strategy.metric)
    training_sec = time.perf_counter() - start
    files = {
        "float32": trained.untrained.float_content,
        "int8": trained.untrained.content,
        **files,
        "int8, trained for it": trained.quantized.content,
    }
    return {
        "num_train": data.num_train,
        "num_validation": data.num_validation,
        "num_test": data.num_test,
        "validation": {"before": trained.before, "after": trained.after, "kept": trained.kept},
        "training_sec": training_sec,
        "rows": [dataclasses.asdict(row) for row in _rows(files, data)],
    }


def _rows(files: dict[str, bytes], data: image_data.ImageData) -> list[Row]:
    rows: list[Row] = []
    exact: npt.NDArray[np.float32] | None = None
    for name, content in files.items():
        outputs = evaluation.outputs_of_file(content, data.test_images)[0]
        exact = outputs if exact is None else exact
        accuracy = float(np.mean(outputs.argmax(axis=-1) == data.test_labels))
        noise = float(np.square(outputs - exact, dtype=np.float64).sum())
        signal = float(np.square(exact, dtype=np.float64).sum())
        ratio = 10 * math.log10(signal / noise) if noise else math.inf
        rows.append(Row(name, accuracy, ratio))
    return rows


def main(argv: Sequence[str]) -> None:
    """Compares the files of one model and writes its entry."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    config = configs.from_mapping(_CONFIG.value)
    tried_in = None
    if _QUICK.value:
        if not _WORKDIR.value:
            raise app.UsageError("--quick needs --workdir.")
        tried_in = pathlib.Path(_WORKDIR.value)
        tiny = {name: value for name, value in settings.QUICK.items() if name.startswith("data.")}
        config = settings.changed(config, {**tiny, **_TINY})
    if not config.quantization.aware.epochs:
        raise app.UsageError(
            "config.quantization.aware.epochs is 0; expected 1 or more: nothing would be compared."
        )
    result = compare(config)
    record.print_table(_NAME.value, result["rows"])
    entries = record.entries("quantization_aware", tried_in or record.RESULTS)
    described = settings.for_result(config)
    entries[_NAME.value] = {
        **{name: described[name] for name in ("model", "seed", "data", "quantization")},
        **result,
    }
    print(record.write_or_try("quantization_aware", {"models": entries}, tried_in))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
