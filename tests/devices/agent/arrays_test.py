from __future__ import annotations

import numpy as np
import pytest

from cprune_tf.devices.agent.arrays import ArgumentBuffers, random_array


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_have_ordinary_magnitudes_and_both_signs(dtype):
    array = random_array(dtype, (64, 3, 5))
    assert array.dtype == dtype
    assert array.shape == (64, 3, 5)
    assert np.all(np.abs(array) >= 0.099)
    assert np.all(np.abs(array) <= 1.0)
    assert 0.4 < np.mean(array > 0) < 0.6


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_small_integers_are_not_zero(dtype):
    array = random_array(dtype, (100,))
    assert array.dtype == dtype
    assert np.all(array != 0)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_possible_indices_are_in_range_of_everything(dtype):
    assert np.all(random_array(dtype, (100,)) == 0)


def test_seeds_decide():
    np.testing.assert_array_equal(
        random_array("float32", (9,), 1), random_array("float32", (9,), 1)
    )
    assert np.any(random_array("float32", (9,), 1) != random_array("float32", (9,), 2))


def test_scalars_and_empty_shapes():
    assert random_array("float32", ()).shape == ()
    assert random_array("float32", (0, 3)).shape == (0, 3)


def test_an_unknown_type_is_refused():
    with pytest.raises(TypeError):
        random_array("float33", (1,))


SPECS = (("float32", (4, 4)), ("float32", (4, 4)), ("int8", (3,)))


@pytest.fixture(scope="module")
def tensor():
    import tvm

    return tvm.runtime.tensor


def test_the_same_buffers_come_back_with_fresh_values(tensor):
    buffers = ArgumentBuffers()
    first = buffers.get(SPECS, tensor)
    values = [buffer.numpy() for buffer in first]
    first[0].copyfrom(np.full((4, 4), np.nan, np.float32))
    second = buffers.get(SPECS, tensor)
    assert all(a.same_as(b) for a, b in zip(first, second, strict=True))
    for expected, buffer in zip(values, second, strict=True):
        np.testing.assert_array_equal(buffer.numpy(), expected)


def test_equal_arguments_of_one_kernel_do_not_share_a_buffer(tensor):
    first, second, _ = ArgumentBuffers().get(SPECS, tensor)
    assert not first.same_as(second)
    assert np.any(first.numpy() != second.numpy())


def test_old_buffers_go_when_there_are_too_many_bytes(tensor):
    buffers = ArgumentBuffers(limit_bytes=1000)
    small = buffers.get([("float32", (10,))], tensor)[0]
    large = buffers.get([("float32", (1000,))], tensor)[0]
    assert buffers.get([("float32", (1000,))], tensor)[0].same_as(large)
    assert not buffers.get([("float32", (10,))], tensor)[0].same_as(small)
