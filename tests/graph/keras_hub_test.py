"""Image architectures of KerasHub: pruned, rebuilt, compared, saved, imported and converted."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from benchmarks import hub, hub_zoo
from cprune_tf.graph import analyze

needs_hub = pytest.mark.skipif(
    not importlib.util.find_spec("keras_hub"), reason="keras-hub is not installed"
)


def test_the_page_says_what_the_results_say() -> None:
    results = hub.read_results()
    assert hub.PAGE.read_text(encoding="utf-8") == hub.page(results)
    assert set(results) <= set(hub_zoo.names())
    assert all(r["checks"]["masked_error"] < 1e-4 for r in results.values() if r["checks"])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match="pip install --no-deps keras-hub"):
        hub_zoo.build("MiT/b0")


@needs_hub
@pytest.mark.slow
@pytest.mark.parametrize("name", hub_zoo.names())
def test_every_architecture(name: str) -> None:
    found = hub_zoo.check(name)
    if found.checks is None:
        assert found.refused and "cannot be made again" in found.refused
        return
    assert found.checks.masked_error < 1e-4
    assert found.checks.loaded_error < 1e-6
    assert found.litert != "yes" or found.checks.tflite_error < 1e-4
    assert not np.isnan(found.checks.masked_error)


@needs_hub
@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNet/small_050", "ViT/tiny", "MiT/b0", "HGNetV2/b0"])
def test_all_but_the_output_is_prunable(name: str) -> None:
    graph = analyze(hub_zoo.build(name))
    rest = [g for g in graph.groups if g.protected and "model's output" not in g.protected]
    assert all("by their indices" in str(g.protected) for g in rest)
    assert len(graph.prunable) >= 24
