"""From a DataConfig to ImageData: finds out which kind of source its name means."""

from __future__ import annotations

import pathlib
import re

from cprune_tf.config import DataConfig
from cprune_tf.data import arrays, datasets, folder, tfds
from cprune_tf.data.image_data import DataError, ImageData
from cprune_tf.data.image_files import FileChecks

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
    elif _FUNCTION.fullmatch(name):
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


def _existing_npz(name: str, path: pathlib.Path) -> pathlib.Path:
    if path.suffix == ".npz" and path.is_file():
        return path
    received = "is not an .npz file" if path.is_file() else "does not exist"
    raise DataError(
        f"data.name is {name!r}, which {received}; expected {arrays.EMBEDDED!r}, 'keras:NAME', "
        "'tfds:NAME', 'module:function', or the path of an .npz or of a folder of images."
    )
