"""From a DataConfig to ImageData: finds out which kind of source its name means."""

from __future__ import annotations

import pathlib

from cprune_tf.config import DataConfig
from cprune_tf.data import arrays
from cprune_tf.data.image_data import DataError, ImageData


def load(
    config: DataConfig,
    *,
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
) -> ImageData:
    """Loads a data set and checks it against the model it is for.

    Args:
        config: Name or path, preprocessing, batch size, augmentation, limits.
        input_shape: (height, width, channels) that the model takes. Images from folders and
            tensorflow-datasets are resized to it, others must have it. None: as the images are.
        num_classes: Outputs of the model. None: as many as the data have.

    Returns:
        The data, ready for training.

    Raises:
        DataError: When there is no such data set, it cannot be read, or it does not fit the model.
    """
    config.validate()
    name = config.name
    if name == arrays.EMBEDDED:
        return arrays.to_image_data(
            arrays.read_embedded(), config, input_shape=input_shape, num_classes=num_classes
        )
    if name.startswith("keras:"):
        raw = arrays.read_keras(name.removeprefix("keras:"))
        return arrays.to_image_data(raw, config, input_shape=input_shape, num_classes=num_classes)
    path = pathlib.Path(name).expanduser()
    if path.suffix == ".npz":
        if not path.is_file():
            raise DataError(f"data.name is {name!r}, but there is no such file.")
        return arrays.to_image_data(
            arrays.read_npz(path), config, input_shape=input_shape, num_classes=num_classes
        )
    raise DataError(
        f"data.name is {name!r}; expected {arrays.EMBEDDED!r}, 'keras:NAME', 'tfds:NAME', the path "
        "of an .npz or of a folder of images, or 'module:function'."
    )
