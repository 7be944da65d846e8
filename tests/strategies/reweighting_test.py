"""Weights instead of filters: once, whatever the accuracy, and not again in a resumed run."""

from __future__ import annotations

import functools

import keras
import numpy as np

from cprune_tf.runs import events
from cprune_tf.strategies.workbench.reweighting import Reweighting
from tests.strategies import benches


class Halving:
    """Sets the first half of each convolution's filters to zero."""

    def __init__(self):
        self.num_calls = 0

    def check(self, model, data):
        pass

    def __call__(self, model, data, on_step):
        self.num_calls += 1
        on_step(1, 1, "half")
        kernel, bias = model.get_layer("second").get_weights()
        kernel[..., :16] = 0
        model.get_layer("second").set_weights([kernel, bias])
        return f"half of {data} is zero"


def test_the_weights_change_once_and_every_filter_stays(tmp_path):
    halving = Halving()
    strategy = functools.partial(Reweighting, sparsify=halving, data="it")
    inaccurate = benches.hooks(evaluate=lambda model: 0.2)
    for _ in range(2):
        with benches.bench(tmp_path, {}, inaccurate) as bench:
            result = benches.prune(bench, strategy, required=0.8)
            (judged,) = bench.run.journal.events(events.CandidateJudged)
            stopped = bench.run.journal.last(events.Stopped)
    assert halving.num_calls == 1
    assert judged.decision == events.ACCEPTED and not judged.removed
    assert judged.accuracy == 0.2 and "half of it is zero" in judged.reason
    assert "no filter is removed" in stopped.reason
    assert result.iteration == 1 and result.latency_ratio == 1
    saved = keras.models.load_model(tmp_path / "models" / "iter_0001.keras")
    kernel = saved.get_layer("second").get_weights()[0]
    assert kernel.shape[-1] == 32 and np.mean(kernel == 0) == 0.5
