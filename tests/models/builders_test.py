from __future__ import annotations

import keras
import numpy as np
import pytest

from cprune_tf.models import mobilenet_small, resnet8, vgg_small


@pytest.mark.parametrize("builder", [resnet8, vgg_small, mobilenet_small])
@pytest.mark.parametrize(("shape", "num_classes"), [((28, 28, 1), 10), ((32, 24, 3), 7)])
def test_builders_take_any_image_and_number_of_classes(builder, shape, num_classes):
    model = builder(shape, num_classes)
    assert model.input_shape == (None, *shape)
    outputs = model(np.random.default_rng(0).random((3, *shape), np.float32))
    assert outputs.shape == (3, num_classes)
    assert np.ptp(np.asarray(outputs)) > 0


def test_resnet8_is_readable_and_of_the_size_of_mlperf_tinys():
    model = resnet8((32, 32, 3), 10)
    names = {layer.name for layer in model.layers}
    assert {"stem_conv", "stack1_conv1", "stack1_bn1", "stack2_shortcut_conv"} <= names
    assert "stack1_shortcut_conv" not in names
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 9
    kernels = sum(layer.kernel.shape.num_elements() for layer in convolutions)
    # The nine kernels of MLPerf Tiny's model.
    assert kernels == 432 + 2 * 2304 + 4608 + 9216 + 512 + 18432 + 36864 + 2048
    assert model.get_layer("stack3_add").output.shape == (None, 8, 8, 64)


def test_weights_are_decided_by_keras_seed():
    weights = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        weights.append(resnet8().get_weights()[0])
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
