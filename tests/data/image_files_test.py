"""Image files of all kinds, good and bad."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from cprune_tf.config import DataConfig
from cprune_tf.data import DataError, load
from cprune_tf.data.image_files import FileChecks, decode

# Smooth, so that lossy formats keep it nearly as it is.
_RAMP = np.stack([*np.meshgrid(np.arange(24), np.arange(16)), np.full((16, 24), 12)], -1) * 8
_COLOUR = PIL.Image.fromarray(_RAMP.astype(np.uint8))
_GREY = _COLOUR.convert("L")


def _encoded(image: PIL.Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _sixteen_bit(kind: str) -> bytes:
    return _encoded(PIL.Image.fromarray(np.asarray(_GREY).astype(np.uint16) * 257), kind)


def _animated(kind: str) -> bytes:
    black = PIL.Image.new("RGB", _COLOUR.size)
    return _encoded(_COLOUR, kind, save_all=True, append_images=[black, black])


_TURNED = PIL.Image.Exif()
_TURNED[0x0112] = 6
_FEW = _COLOUR.convert("P", palette=PIL.Image.Palette.ADAPTIVE, colors=64)

# The file, the picture in it, and how far a pixel may be from it (lossy formats).
_FILES = {
    "jpeg": (_encoded(_COLOUR, "JPEG", quality=95), _COLOUR, 12),
    "grey jpeg": (_encoded(_GREY, "JPEG", quality=95), _GREY, 4),
    "cmyk jpeg": (_encoded(_COLOUR.convert("CMYK"), "JPEG", quality=95), _COLOUR, 30),
    "turned jpeg": (_encoded(_COLOUR, "JPEG", quality=95, exif=_TURNED), _COLOUR, 12),
    "png": (_encoded(_COLOUR, "PNG"), _COLOUR, 0),
    "16-bit png": (_sixteen_bit("PNG"), _GREY, 0),
    "palette png": (_encoded(_FEW, "PNG"), _FEW, 0),
    "png with alpha": (_encoded(_COLOUR.convert("RGBA"), "PNG"), _COLOUR, 0),
    "one-bit png": (_encoded(_COLOUR.convert("1"), "PNG"), _COLOUR.convert("1"), 0),
    "bmp": (_encoded(_COLOUR, "BMP"), _COLOUR, 0),
    "palette bmp": (_encoded(_FEW, "BMP"), _FEW, 0),
    "gif": (_encoded(_FEW, "GIF"), _FEW, 0),
    "animated gif": (_animated("GIF"), _COLOUR, 40),
    "webp": (_encoded(_COLOUR, "WEBP", lossless=True), _COLOUR, 0),
    "animated webp": (_animated("WEBP"), _COLOUR, 60),
    "tiff": (_encoded(_COLOUR, "TIFF"), _COLOUR, 0),
    "16-bit tiff": (_sixteen_bit("TIFF"), _GREY, 0),
}


@pytest.mark.parametrize("kind", _FILES)
@pytest.mark.parametrize("channels", [1, 3])
def test_files_of_all_kinds_are_read_right(kind, channels):
    contents, picture, tolerance = _FILES[kind]
    expected = np.asarray(picture.convert("RGB" if channels == 3 else "L"), np.int32)
    image = decode(tf.constant(contents), channels).numpy()
    assert image.shape == (16, 24, channels) and image.dtype == np.uint8
    difference = np.abs(image.astype(np.int32) - expected.reshape(16, 24, -1))
    assert difference.max() <= tolerance + (channels == 1), difference.max()


def _folder(root: pathlib.Path, files: dict[str, bytes]) -> str:
    """Two classes with good images and, in the second, the given files as well."""
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for i in range(10):
            (root / name / f"good{i}.png").write_bytes(_FILES["png"][0])
    for name, contents in files.items():
        (root / "dog" / name).write_bytes(contents)
    return str(root)


def test_misnamed_files_are_read_by_their_content(tmp_path):
    files = {f"{i}.jpg": contents for i, (contents, *_) in enumerate(_FILES.values())}
    name = _folder(tmp_path, {**files, "a.PNG": _FILES["jpeg"][0], "b.webp": _FILES["gif"][0]})
    config = DataConfig(name=name, augment=False, validation_fraction=0.0, batch_size=5)
    data = load(config, input_shape=(16, 24, 1), num_classes=2)
    assert data.num_train + len(data.test_labels) == 20 + len(files) + 2
    assert sum(len(labels) for _, labels in data.train) == data.num_train // 5 * 5


_BAD = {
    "empty.jpg": (b"", "empty"),
    "text.png": (b"no image", "not a JPEG, PNG"),
    "photo.heic": (b"\0\0\0\x18ftypheic", "not a JPEG, PNG"),
    **{
        f"cut.{kind}": (_FILES[kind][0][: len(_FILES[kind][0]) * 2 // 3], "damaged or cut off")
        for kind in ("jpeg", "png", "bmp", "gif", "webp")
    },
}


def test_all_unreadable_files_are_named_at_once(tmp_path):
    name = _folder(tmp_path, {file: contents for file, (contents, _) in _BAD.items()})
    with pytest.raises(DataError, match=f"{len(_BAD)} of 28 image files cannot be read") as error:
        load(DataConfig(name=name))
    for file, (_, reason) in _BAD.items():
        assert f"dog/{file} ({reason}" in str(error.value)
    assert "config.data.skip_unreadable=True" in str(error.value)


def test_of_many_unreadable_files_twenty_are_named(tmp_path):
    name = _folder(tmp_path, {f"bad{i:02d}.jpg": b"" for i in range(30)})
    with pytest.raises(DataError, match=r"30 of 50 image files .* and 10 more") as error:
        load(DataConfig(name=name))
    assert str(error.value).count("bad") == 20


def test_unreadable_files_are_skipped_if_the_config_says_so(tmp_path):
    name = _folder(tmp_path, {file: contents for file, (contents, _) in _BAD.items()})
    config = DataConfig(name=name, skip_unreadable=True, augment=False, batch_size=1)
    data = load(config)
    counts = data.num_train, len(data.validation_labels), len(data.test_labels)
    assert sum(counts) == 20
    assert sum(1 for _ in data.train) == data.num_train
    (note,) = data.notes
    assert f"{len(_BAD)} of 28" in note and note.endswith("they are skipped.")
    for path in (tmp_path / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"so .*cat has no readable images"):
        load(config)


def test_a_file_is_checked_once_and_progress_is_told(tmp_path):
    name = _folder(tmp_path, {})
    told = []
    files = FileChecks(lambda *report: told.append(report))
    for _ in range(2):
        load(DataConfig(name=name), files=files)
    assert told[-1][:2] == (20, 20) and "images a second" in told[-1][2]
    assert sum(done == planned for done, planned, _ in told) == 1


def test_other_numbers_of_channels_are_refused_before_reading(tmp_path):
    with pytest.raises(DataError, match="the model takes 2 channels; expected 1"):
        load(DataConfig(name=_folder(tmp_path, {})), input_shape=(8, 8, 2))
