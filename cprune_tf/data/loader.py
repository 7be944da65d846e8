"""From a DataConfig to ImageData: finds out which kind of source its name means."""

from __future__ import annotations

import pathlib
import re

from cprune_tf.config import DataConfig
from cprune_tf.data import arrays, datasets, folder, tfds
from cprune_tf.data.image_data import DataError, ImageData
from cprune_tf.data.image_files import FileChecks
from cprune_tf.data.interface import Interface
from cprune_tf.data.samples import SampleData, from_samples

_PARTS = "(train, validation) or (train, validation, test), each (inputs, labels) as for model.fit"
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load(
    config: DataConfig,
    *,
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    files: FileChecks | None = None,
) -> ImageData:
    """Loads a data set and checks it against the model it is for.

    Args:
        config: Name or path, preprocessing, batch size, augmentation, limits.
        input_shape: (height, width, channels) that the model takes. Images from folders and
            tensorflow-datasets are resized to it, others must have it. None: as the images are.
        num_classes: Outputs of the model. None: as many as the data have.
        files: Checks the files of a folder; given again, it checks none of them twice. None: a new
            one.

    Returns:
        The data, ready for training.

    Raises:
        DataError: When there is no such data set, it cannot be read, or it does not fit the model.
    """
    config.validate()
    name = config.name
    kind, _, rest = name.partition(":")
    if name == arrays.EMBEDDED:
        raw = arrays.read_embedded()
    elif kind == "keras":
        raw = arrays.read_keras(rest)
    elif kind == "tfds":
        return tfds.read_tfds(rest, config, input_shape=input_shape, num_classes=num_classes)
    elif is_function(name):
        return datasets.call_function(
            name, config, input_shape=input_shape, num_classes=num_classes
        )
    else:
        path = pathlib.Path(name).expanduser()
        if path.is_dir():
            return folder.read_folder(
                path, config, input_shape=input_shape, num_classes=num_classes, files=files
            )
        raw = arrays.read_npz(_existing_npz(name, path))
    return arrays.to_image_data(raw, config, input_shape=input_shape, num_classes=num_classes)


def is_function(name: str) -> bool:
    """Whether `config.data.name` names a function: "module:function"."""
    return _FUNCTION.fullmatch(name) is not None


def load_samples(config: DataConfig, interface: Interface) -> SampleData:
    """Calls a config's "module:function" for data of any task.

    Args:
        config: The name, the batch size and limits. The function's data are preprocessed already.
        interface: What the model takes and gives.

    Returns:
        The data, checked against the model.

    Raises:
        DataError: If there is no such function, or its data do not fit the model.
    """
    config.validate()
    name = config.name
    if not is_function(name):
        raise DataError(
            f"data.name is {name!r}, which gives classified images; expected 'module:function' for "
            f"any other task. The function takes no arguments and gives {_PARTS}."
        )
    parts = datasets.find_function(name)()
    if not isinstance(parts, tuple) or len(parts) not in (2, 3):
        raise DataError(f"{name}() gives {type(parts).__name__}; expected {_PARTS}.")
    return from_samples(
        interface,
        *parts,
        name=name,
        batch_size=config.batch_size,
        max_test=config.max_test,
        steps_per_epoch=config.steps_per_epoch,
    )


def _existing_npz(name: str, path: pathlib.Path) -> pathlib.Path:
    if path.suffix == ".npz" and path.is_file():
        return path
    received = "is not an .npz file" if path.is_file() else "does not exist"
    raise DataError(
        f"data.name is {name!r}, which {received}; expected {arrays.EMBEDDED!r}, 'keras:NAME', "
        "'tfds:NAME', 'module:function', or the path of an .npz or of a folder of images."
    )
