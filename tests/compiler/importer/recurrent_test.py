"""Recurrent layers are unrolled over their steps, and compared with Keras."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from cprune_tf.compiler.importer import UnsupportedOperationError, import_model

LAYERS = {
    "simple": lambda: layers.SimpleRNN(3),
    "lstm": lambda: layers.LSTM(3),
    "lstm_settings": lambda: layers.LSTM(
        3, use_bias=False, activation="relu", recurrent_activation="hard_sigmoid"
    ),
    "lstm_sequences_backwards": lambda: layers.LSTM(3, return_sequences=True, go_backwards=True),
    "gru": lambda: layers.GRU(3),
    "gru_reset_before": lambda: layers.GRU(3, reset_after=False, return_sequences=True),
    "gru_without_bias": lambda: layers.GRU(3, use_bias=False),
    "both_ways": lambda: layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
    "both_ways_last": lambda: layers.Bidirectional(layers.GRU(3), merge_mode="ave"),
    "both_ways_states": lambda: layers.Bidirectional(
        layers.LSTM(3, return_state=True), merge_mode=None
    ),
    "cells": lambda: layers.RNN(
        [layers.LSTMCell(3), layers.GRUCell(2)], return_sequences=True, go_backwards=True
    ),
}


@pytest.mark.parametrize("build", list(LAYERS.values()), ids=list(LAYERS))
def test_layer(build, check_against_keras):
    inputs = keras.Input((4, 5))
    check_against_keras(keras.Model(inputs, build()(inputs)), batch_size=2)


def test_states_are_passed_on(check_against_keras):
    inputs = keras.Input((4, 5))
    _, *states = layers.LSTM(3, return_state=True)(inputs)
    outputs = layers.LSTM(3)(inputs, initial_state=states)
    check_against_keras(keras.Model(inputs, outputs))


def test_a_head_after_convolutions(check_against_keras):
    inputs = keras.Input((8, 6, 3))
    x = layers.MaxPooling2D(2)(layers.Conv2D(4, 3, padding="same", activation="relu")(inputs))
    x = layers.Bidirectional(layers.GRU(3))(layers.Reshape((4, 12))(x))
    check_against_keras(keras.Model(inputs, layers.Dense(5, activation="softmax")(x)))


def test_what_is_not_supported_is_said():
    fixed = keras.Input(batch_shape=(1, 4, 5))
    with pytest.raises(UnsupportedOperationError, match="stateful=True"):
        import_model(keras.Model(fixed, layers.GRU(3, stateful=True)(fixed)))
    frames = keras.Input((3, 8, 8, 2))
    with pytest.raises(UnsupportedOperationError, match="ConvLSTM2D"):
        import_model(keras.Model(frames, layers.ConvLSTM2D(3, 2)(frames)))
