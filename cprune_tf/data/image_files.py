"""Image files: what is in them, whether it can be read, and decoding them in a tf.data pipeline.

JPEG and PNG are decoded by TensorFlow, as `keras.utils.image_dataset_from_directory` does, so a
model sees the pixels that it was probably trained on. Other formats are left to Pillow: TensorFlow
gives wrong colours for BMPs with a palette, and animated WebPs can crash it.

As in Keras, an alpha channel is dropped, an EXIF orientation is not applied, and of an animation
the first frame counts.
"""

from __future__ import annotations

import concurrent.futures
import io
import os
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np
import PIL.Image
import tensorflow as tf

from cprune_tf.data.image_data import DataError

# Called with (files done, files in all, text).
FileProgress = Callable[[int, int, str], None]

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_PILLOW_FORMATS = ("BMP", "GIF", "WEBP", "TIFF")
_READ = "JPEG, PNG, BMP, GIF, WebP or TIFF"
_BLOCK = 512
_MAX_SHOWN = 20
_SHORTEST_PAUSE_SEC = 0.2


class FileChecks:
    """Finds files that cannot be read, and remembers the others: no file is decoded twice for it.

    Args:
        on_progress: Told how far a check is; None: nobody is told.
    """

    def __init__(self, on_progress: FileProgress | None = None) -> None:
        self._on_progress = on_progress
        self._reasons: dict[str, str] = {}

    def unreadable(self, paths: Sequence[str], channels: int) -> dict[str, str]:
        """Decodes every file, on all cores, and says what is wrong with those that cannot be read.

        Args:
            paths: The files.
            channels: Of the model's images.

        Returns:
            The reason for each file that cannot be read, by its path.
        """
        fresh = [path for path in paths if path not in self._reasons]
        start, told = time.monotonic(), -_SHORTEST_PAUSE_SEC
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for first in range(0, len(fresh), _BLOCK):
                block = fresh[first : first + _BLOCK]
                reasons = pool.map(lambda path: _reason(path, channels), block)
                self._reasons.update(zip(block, reasons, strict=True))
                done, elapsed_sec = first + len(block), time.monotonic() - start
                is_due = elapsed_sec - told >= _SHORTEST_PAUSE_SEC or done == len(fresh)
                if self._on_progress is not None and is_due:
                    told = elapsed_sec
                    text = f"{done / max(elapsed_sec, 1e-6):,.0f} images a second"
                    self._on_progress(done, len(fresh), text)
        return {path: self._reasons[path] for path in paths if self._reasons[path]}


def list_unreadable(root: str, reasons: dict[str, str], total: int) -> str:
    """Names the first unreadable files and their number, in one line.

    Args:
        root: The folder they are in.
        reasons: What is wrong with each, by its path.
        total: Number of all files.
    """
    shown = [
        f"{os.path.relpath(path, root)} ({reason})"
        for path, reason in list(reasons.items())[:_MAX_SHOWN]
    ]
    more = len(reasons) - len(shown)
    return f"{root}: {len(reasons)} of {total} image files cannot be read: {', '.join(shown)}" + (
        f" and {more} more" if more > 0 else ""
    )


def check_channels(root: str, channels: int) -> None:
    """Raises DataError unless images can be brought to so many channels."""
    if channels not in (1, 3, 4):
        raise DataError(
            f"{root} is a folder of images, but the model takes {channels} channels; expected 1 "
            "(grey), 3 (colour) or 4 (PNGs with alpha)."
        )


def decode(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes an image file, whatever its name says it is.

    Args:
        contents: The file's bytes, a scalar string.
        channels: 1 (grey), 3 (colour) or 4 (colour and alpha, for PNGs).

    Returns:
        [height, width, channels] uint8.
    """
    if channels == 4:
        return tf.io.decode_png(contents, channels=4)
    is_tensorflows = tf.logical_or(
        tf.strings.substr(contents, 0, len(_JPEG)) == _JPEG,
        tf.strings.substr(contents, 0, len(_PNG)) == _PNG,
    )
    # In colour even for grey models: TensorFlow cannot make CMYK grey.
    image = tf.cond(
        is_tensorflows,
        lambda: tf.io.decode_image(contents, channels=3, expand_animations=False),
        lambda: tf.numpy_function(
            # In eager mode and in graphs, TensorFlow hands strings over differently.
            lambda item: _decode_by_pillow(np.asarray(item, object).item()),
            [contents],
            tf.uint8,
        ),
    )
    image = tf.ensure_shape(image, [None, None, 3])
    return tf.image.rgb_to_grayscale(image) if channels == 1 else image


def read(path: str, channels: int) -> tf.Tensor:
    """Reads and decodes a file; see `decode`."""
    return decode(tf.constant(pathlib.Path(path).read_bytes()), channels)


def _decode_by_pillow(contents: bytes) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(contents), formats=_PILLOW_FORMATS) as image:
        if image.mode.startswith("I;16"):
            high = (np.asarray(image) >> 8).astype(np.uint8)  # Pillow itself would cut at 255
            return np.repeat(high[..., np.newaxis], 3, axis=-1)
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of kind {image.mode!r} have no known range")
        return np.asarray(image.convert("RGB"))


def _reason(path: str, channels: int) -> str:
    """What is wrong with a file; "" if it can be read."""
    try:
        contents = pathlib.Path(path).read_bytes()
    except OSError as error:
        return str(error.strerror)
    if not contents:
        return "empty"
    try:
        if contents.startswith((_JPEG, _PNG)):
            decode(tf.constant(contents), channels)
        elif channels == 4:
            return "only PNGs have four channels"
        else:
            _decode_by_pillow(contents)
    except PIL.UnidentifiedImageError:
        return f"not a {_READ}"
    except (tf.errors.OpError, OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return "damaged or cut off"
    return ""
