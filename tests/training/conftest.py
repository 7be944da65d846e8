from __future__ import annotations

import keras
import pytest

from cprune_tf.config import DataConfig
from cprune_tf.data import ImageData, load
from cprune_tf.models import load_model


@pytest.fixture(scope="session")
def small_data() -> ImageData:
    """A real slice: enough to learn something in seconds."""
    return load(
        DataConfig(
            validation_fraction=0.0, max_train=1600, max_test=500, augment=False, batch_size=32
        )
    )


@pytest.fixture
def trained() -> keras.Model:
    """The embedded model, fresh for each test."""
    return load_model("resnet8_fashion")
