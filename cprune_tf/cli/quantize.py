r"""Converts a Keras model to an int8 `.tflite` file and compares it with the float32 one.

    python tools/quantize.py --config=configs/fashion_resnet8.py --output=model_int8.tflite \
        --config.model=model.keras

Printed are accuracy on the test images (with LiteRT on this machine), or the score of another task,
size, and latency on config.device, measured in turns. If the score falls by more than --max_drop,
the layers follow that add most of the error, and why. config.quantization keeps layers float32,
corrects biases and, with --config.quantization.aware.epochs=4, trains the model for int8 first
(quantisation-aware training).
"""

from __future__ import annotations

import dataclasses
import pathlib
import typing
from collections.abc import Mapping, Sequence

from absl import flags
from ml_collections import config_flags

from cprune_tf import config as configs
from cprune_tf.cli import command_line, shape_flag
from cprune_tf.storage import files

if typing.TYPE_CHECKING:
    from cprune_tf.devices import Latency
    from cprune_tf.litert import Quantized
    from cprune_tf.task import Task
    from cprune_tf.training.aware import AwareResult

flags.adopt_module_key_flags(shape_flag)
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The experiment: a Python file with get_config(). Only the fields model, device, seed, data, "
    "measure, quantization and strategy.metric are used.",
)
_OUTPUT = flags.DEFINE_string("output", None, "The int8 .tflite file to write.")
_FLOAT_OUTPUT = flags.DEFINE_string("float_output", None, "Write the float32 file here too.")
_TRAINED_OUTPUT = flags.DEFINE_string(
    "trained_output", None, "Write the model trained for int8 here too, as .keras."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the outputs if they exist.")
_MAX_DROP = flags.DEFINE_float(
    "max_drop",
    0.005,
    "Fall of accuracy (0..1) from which on the worst layers are listed; of another metric, a part "
    "of the float32 file's value.",
)
_NUM_LAYERS = flags.DEFINE_integer("layers", 8, "Number of layers to list.", lower_bound=1)


def run() -> None:
    """The entry point of `cprune-quantize`."""
    flags.mark_flags_as_required(["config", "output"])
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Quantises the model that the flags describe."""
    del argv
    values = command_line.read_config(_CONFIG)
    shape_flag.replace_in(values)
    config = configs.from_mapping(values)
    output = _checked_output("output", _OUTPUT.value)
    trained_output = None
    if _TRAINED_OUTPUT.value:
        if not config.quantization.aware.epochs:
            raise command_line.UsageError(
                "--trained_output is given, but config.quantization.aware.epochs is 0; expected 1 "
                "or more, since nothing is trained otherwise."
            )
        trained_output = _checked_output("trained_output", _TRAINED_OUTPUT.value, ".keras")
    float_output = None
    if _FLOAT_OUTPUT.value:
        float_output = _checked_output("float_output", _FLOAT_OUTPUT.value)
    # The import takes seconds, so the command line was checked first.
    command_line.import_tensorflow_quietly()
    from cprune_tf.graph import any_names

    with any_names():
        _quantize(config, output, float_output, trained_output)


def _checked_output(flag_name: str, name: str, suffix: str = ".tflite") -> pathlib.Path:
    path = pathlib.Path(name)
    if path.suffix != suffix:
        raise command_line.UsageError(
            f"--{flag_name} is {name!r}; expected a file ending in {suffix}."
        )
    if path.exists() and not _OVERWRITE.value:
        raise command_line.UsageError(
            f"--{flag_name} {name!r} exists already; --overwrite replaces it."
        )
    return command_line.writable_file(flag_name, name)


def _quantize(
    config: configs.PruneConfig,
    output: pathlib.Path,
    float_output: pathlib.Path | None,
    trained_output: pathlib.Path | None,
) -> None:
    from cprune_tf.data.representative import representative_inputs
    from cprune_tf.graph.storing import stored_form
    from cprune_tf.task import open_task
    from cprune_tf.training.deployed import quantize_as_configured

    task = open_task(config)
    if task.remark:
        print(task.remark)
    model, data, settings = task.model, task.data, config.quantization
    inputs = representative_inputs(data, settings.num_images, seed=config.seed)
    if settings.aware.epochs:
        trained = _train(task, config)
        before, quantized = trained.untrained, trained.quantized
        contents = {"float32": before.float_content, "int8, untrained": before.content}
        if trained_output is not None:
            stored_form(model).save(trained_output)
    else:
        quantized = quantize_as_configured(model, inputs, settings)
        contents = {"float32": quantized.float_content}
    contents["int8"] = quantized.content
    files.write_bytes(output, quantized.content)
    if float_output is not None:
        files.write_bytes(float_output, quantized.float_content)
    count = len(inputs[0])
    print(f"{model.name}: ranges from {count} training {task.metric.items} of {data.name}")
    _print_notes(quantized)
    scores = _scores(contents, task)
    _print_comparison(config, contents, scores, task)
    drop = scores["float32"] - scores["int8"]
    if drop > task.metric.drop(_MAX_DROP.value, scores["float32"]):
        _print_layers(quantized, task, drop)


def _train(task: Task, config: configs.PruneConfig) -> AwareResult:
    """Trains a model in place for int8 and says what came of it."""
    from cprune_tf.training.aware import train_aware

    model, data, epochs = task.model, task.data, config.quantization.aware.epochs
    print(f"{model.name}: training for int8, {epochs} epoch{'' if epochs == 1 else 's'}")
    result = train_aware(
        model,
        data,
        config.quantization,
        seed=config.seed,
        metric=config.strategy.metric,
        scorer=task.scorer,
    )
    decided = "test" if data.validation_images is None else "validation"
    print(f"On the {decided} {task.metric.items}: {result}.")
    if result.left_out:
        print(f"Weights not rounded in that training: {', '.join(result.left_out)}.")
    return result


def _print_notes(quantized: Quantized) -> None:
    for remark in quantized.remarks:
        print(remark)
    kept = [str(operator) for operator in quantized.float_operators if operator.requested]
    if kept:
        print(f"Kept in float32 as asked: {'; '.join(kept)}.")
    if quantized.correction is not None:
        correction = quantized.correction
        largest = max(correction.corrected.items(), key=lambda item: item[1], default=("", 0.0))
        print(
            f"Biases of {len(correction.corrected)} layers corrected over "
            f"{correction.num_images} images; the most, {largest[1]:.3f} standard deviations, in "
            f"{largest[0] or 'none'}."
        )
        if correction.skipped:
            print(f"No bias to correct in: {', '.join(correction.skipped)}.")


def _scores(contents: Mapping[str, bytes], task: Task) -> dict[str, float]:
    """The scores of files on the test data."""
    from cprune_tf.training.deployed import score_of_file

    quoted = dataclasses.replace(task.data, validation_images=None, validation_labels=None)
    return {
        name: score_of_file(content, quoted, task.metric.name, task.scorer)
        for name, content in contents.items()
    }


def _print_comparison(
    config: configs.PruneConfig,
    contents: Mapping[str, bytes],
    scores: Mapping[str, float],
    task: Task,
) -> None:
    import rich.box
    import rich.table

    from cprune_tf.report import formats

    latencies, emulated = _time(config, contents)
    threads = formats.threads(config.measure.num_threads)
    table = rich.table.Table(box=rich.box.SIMPLE)
    table.add_column("LiteRT")
    for column in (task.metric.label, "file", f"latency, {threads}", "speed"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, content in contents.items():
        ratio = latencies["float32"].median_ms / latencies[name].median_ms
        table.add_row(
            name,
            formats.score(task.metric, scores[name]),
            formats.file_bytes(len(content)),
            formats.milliseconds(latencies[name].median_ms),
            "—" if emulated else formats.factor(ratio),
        )
    command_line.make_console().print(table)
    count, items = task.data.num_test, task.metric.items
    what = "Accuracies" if task.metric.is_accuracy else "Scores"
    print(f"{what} on {count:,} test {items}, latencies on {config.device} in turns.")


def _time(
    config: configs.PruneConfig, contents: Mapping[str, bytes]
) -> tuple[dict[str, Latency], bool]:
    """Times files in turns on the config's device; tells whether that is emulated."""
    import tempfile

    from cprune_tf.devices import ModelFile, open_device

    with tempfile.TemporaryDirectory() as directory:
        models = []
        for name, content in contents.items():
            path = pathlib.Path(directory, f"{name}.tflite")
            path.write_bytes(content)
            models.append(ModelFile(name, "litert", str(path)))
        with open_device(config.device, config.measure.cores) as device:
            emulated = device.info().emulated
            latencies = device.time_models(models, config.measure.num_threads, config.measure)
    return dict(zip(contents, latencies, strict=True)), emulated


def _print_layers(quantized: Quantized, task: Task, drop: float) -> None:
    from cprune_tf import litert
    from cprune_tf.accuracy import capitalized
    from cprune_tf.report import formats, quantization_tables

    metric = task.metric
    allowed = formats.percent(_MAX_DROP.value)
    if not metric.is_accuracy:
        allowed += " of the float32 file's value"
    print(
        f"{capitalized(metric.word)} changes by {formats.score_change(metric, -drop)}; --max_drop "
        f"allows a loss of {allowed}. The layers that add most noise to their outputs:"
    )
    errors = litert.compare_layers(quantized, task.data.test_images)
    table = quantization_tables.layer_error_table(errors, _NUM_LAYERS.value)
    command_line.make_console().print(table)
    print("--config.quantization.keep_float=LAYER keeps one of them float32.")


if __name__ == "__main__":
    run()
