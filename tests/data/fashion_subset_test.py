from __future__ import annotations

import importlib.resources
import pathlib
import subprocess
import sys

import numpy as np
import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_SOURCE = _ROOT.parent / "shared/data/fashion_mnist/fashion_mnist_70k_by_class.npz"
_FOLDER = importlib.resources.files("cprune_tf.data") / "fashion_mnist"


def _make(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_ROOT / "tools" / "make_fashion_subset.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_licence_lies_beside_the_images():
    text = (_FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert "The MIT License (MIT) Copyright © 2017 Zalando SE" in text


def test_no_test_image_is_a_training_image():
    with importlib.resources.as_file(_FOLDER / "fashion_mnist_subset.npz") as path:
        with np.load(path) as file:
            train, test = file["x_train"], file["x_test"]
        assert path.stat().st_size < 8e6
    train_images = {image.tobytes() for image in train}
    # Fashion-MNIST itself holds a few dozen images twice; more would be a wrong split.
    assert sum(image.tobytes() in train_images for image in test) <= 5


@pytest.mark.skipif(not _SOURCE.exists(), reason="no Fashion-MNIST in ../shared/data")
def test_script_makes_the_embedded_file_again_byte_for_byte(tmp_path):
    made = tmp_path / "subset.npz"
    result = _make(f"--source={_SOURCE}", f"--output={made}")
    assert result.returncode == 0, result.stderr
    with importlib.resources.as_file(_FOLDER / "fashion_mnist_subset.npz") as path:
        assert made.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_train=31"], "must be multiples of the 3 classes"),
        (["--num_train=30", "--num_test=3"], "class 0 has 10 images; 11 are needed"),
    ],
)
def test_impossible_splits_are_refused(tmp_path, flags, message):
    source = tmp_path / "source.npz"
    np.savez(source, x=np.zeros((30, 28, 28), np.uint8), y=np.arange(30) % 3)
    result = _make(f"--source={source}", f"--output={tmp_path / 'o.npz'}", *flags)
    assert result.returncode != 0
    assert message in result.stderr
    assert not (tmp_path / "o.npz").exists()
