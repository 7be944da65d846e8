r"""Trains a model and saves it: a classifier, or one of another task by its metric and data.

The embedded ResNet-8 was made by this command:

    python tools/train.py --config=configs/train_fashion_resnet8.py \
        --output=cprune_tf/models/pretrained/resnet8_fashion.keras --overwrite

Any field of the config can be overridden, e.g. --config.training.long_term.epochs=5.

With --config.training.distribute=mirrored all GPUs of this machine train. With multi_worker, start
the same command on each machine, with TF_CONFIG set as TensorFlow expects it: all of them train,
and the first worker (or the chief) evaluates, prints and writes the file.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
import typing
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from cprune_tf import config as configs
from cprune_tf.cli import command_line, shape_flag
from cprune_tf.storage import files

if typing.TYPE_CHECKING:
    from cprune_tf.task import Task

flags.adopt_module_key_flags(shape_flag)
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The experiment: a Python file with get_config(). Only the fields model, seed, data, "
    "training.long_term, training.distribute and strategy.metric are used. model is a name or file "
    "for load_model, or 'resnet8', 'vgg_small' or 'mobilenet_small' for a new model.",
)
_OUTPUT = flags.DEFINE_string("output", None, "The .keras file to write.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the output if it exists.")
_TENSORBOARD_DIR = flags.DEFINE_string(
    "tensorboard_dir", None, "Where to write each epoch's loss and accuracy for TensorBoard."
)


def run() -> None:
    """The entry point of `cprune-train`."""
    flags.mark_flags_as_required(["config", "output"])
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Trains and saves the model that the flags describe."""
    del argv
    values = command_line.read_config(_CONFIG)
    shape_flag.replace_in(values)
    config = configs.from_mapping(values)
    output = _check_output(_OUTPUT.value, _OVERWRITE.value)
    if _TENSORBOARD_DIR.value:
        command_line.writable_folder("tensorboard_dir", _TENSORBOARD_DIR.value)
    # The import takes seconds, so the command line was checked first.
    command_line.import_tensorflow_quietly()
    from cprune_tf.graph import any_names

    with any_names():
        _train(config, output)


def _train(config: configs.PruneConfig, output: pathlib.Path) -> None:
    import keras

    from cprune_tf import training
    from cprune_tf.data import ImageData
    from cprune_tf.training import distribution, plausibility

    # First of all: workers cannot be found any more once TensorFlow has computed something.
    replicas = distribution.open_strategy(config.training.distribute)
    keras.utils.set_random_seed(config.seed)
    task = _opened(config)
    model, data, metric = task.model, task.data, task.metric
    if not distribution.is_chief(replicas):
        # The chief says, judges and writes what is the same everywhere.
        training.fit(model, data, config.training.long_term, seed=config.seed, replicas=replicas)
        return

    def judge() -> str:
        if isinstance(data, ImageData):
            score = training.evaluate(model, data, metric.name)
        else:
            assert task.scorer is not None
            score = task.scorer.of_model(model, data.test_images, data.test_labels)
        return f"test {metric.name} {metric.text(score)}"

    for note in (*data.notes, task.remark, plausibility.scaling_note(model, data)):
        if note:
            print(note)
    print(
        f"{model.name}: {model.count_params():,} parameters; {data.name}: "
        f"{data.num_train or 'unknown number of'} training, {data.num_test} test {metric.items}"
    )

    def report(epoch: training.EpochResult) -> None:
        trained = "" if math.isnan(epoch.accuracy) else f"training top1 {epoch.accuracy:.2%}  "
        print(
            f"epoch {epoch.epoch:3d}/{epoch.num_epochs}  loss {epoch.loss:.4f}  "
            f"{trained}{judge()}  {epoch.duration_sec:.1f} s",
            flush=True,
        )

    start = time.perf_counter()
    training.fit(
        model,
        data,
        config.training.long_term,
        seed=config.seed,
        on_epoch=report,
        log_dir=_TENSORBOARD_DIR.value,
        replicas=replicas,
    )
    with files.replacing(output) as temporary:
        model.save(temporary)
    print(f"{output}: {judge()} after {time.perf_counter() - start:.0f} s")


def _check_output(name: str, overwrite: bool) -> pathlib.Path:
    output = pathlib.Path(name)
    if output.suffix != ".keras":
        raise command_line.UsageError(f"--output is {name!r}; expected a file ending in .keras.")
    if output.exists() and not overwrite:
        raise command_line.UsageError(f"--output {name!r} exists already; --overwrite replaces it.")
    return command_line.writable_file("output", name)


def _opened(config: configs.PruneConfig) -> Task:
    """Loads the model and data that fit it, or the data and a new model that fits them."""
    from cprune_tf import data as image_data
    from cprune_tf import models
    from cprune_tf.task import Task, open_task

    builders = {
        "resnet8": models.resnet8,
        "vgg_small": models.vgg_small,
        "mobilenet_small": models.mobilenet_small,
    }
    # Nothing is chosen here, so no image has to be set apart.
    data_config = dataclasses.replace(config.data, validation_fraction=0.0)
    if config.model not in builders:
        return open_task(dataclasses.replace(config, data=data_config))
    data = image_data.load(data_config)
    model = builders[config.model](data.input_shape, data.num_classes)
    return Task(model, data, config.strategy.judged_by)


if __name__ == "__main__":
    run()
