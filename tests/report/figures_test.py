from __future__ import annotations

import dataclasses

from cprune_tf import report as report_lib
from cprune_tf.report import figures, types

from . import sample_run


def test_very_deep_models_show_the_layers_that_lost_most(tmp_path):
    report = report_lib.build_report(sample_run.make_run(tmp_path / "run"))
    layers = tuple(
        types.LayerChannels(f"conv{i}", 100, after, after / 100)
        for i, after in enumerate([100] * 50 + [20, 40] * 25 + [100] * 50)
    )
    report = dataclasses.replace(report, layers=layers)
    shown = figures.shown_layers(report)
    assert len(shown) == 60
    assert {layer.layer for layer in layers if layer.after < 100} <= {s.layer for s in shown}
    assert [s.layer for s in shown] == [x.layer for x in layers if x in shown], "in model order"
    plots = figures.write_figures(report, tmp_path)
    assert "conv50" in next(p.svg for p in plots if p.name == "channels")


def test_plots_are_drawn_from_what_there_is(tmp_path):
    report = report_lib.build_report(sample_run.make_run(tmp_path / "run"))
    for iterations in (report.iterations, report.iterations[:1]):
        changed = dataclasses.replace(
            report, iterations=iterations, required_accuracy=None, long_term_epochs=None
        )
        assert "history" in {p.name for p in figures.write_figures(changed, tmp_path)}
    nothing = dataclasses.replace(report, iterations=(), latencies=(), layers=())
    assert figures.write_figures(nothing, tmp_path) == ()
    assert list(tmp_path.glob("*.png")) == []
