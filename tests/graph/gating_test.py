"""Closed gates against models whose branches vanished."""

from __future__ import annotations

import numpy as np
import pytest

from cprune_tf import graph
from cprune_tf.graph.gating import gated_model
from tests.graph import residual_models as blocks


def test_closed_gates_are_the_model_without_the_branch():
    model = blocks.chain(blocks.basic, blocks.bottleneck, blocks.inverted, blocks.excited_behind)
    channels = graph.analyze(model)
    names = [group.name for group in channels.removable_whole]
    gated, gates = gated_model(channels, names)
    assert gates["block1_a"] == gates["block1_b"] and len(set(gates.values())) == 4
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(gated(images), model(images), rtol=1e-5, atol=1e-6)
    for name in names:
        for gate in gates[name]:
            gated.get_layer(gate).gate.assign(0.0)
        removal = {name: range(channels[name].num_channels)}
        smaller = graph.rebuild(model, removal, fold_constants=False)
        assert np.asarray(gated(images)) == pytest.approx(
            np.asarray(smaller(images)), rel=1e-4, abs=1e-5
        )
        for gate in gates[name]:
            gated.get_layer(gate).gate.assign(1.0)
