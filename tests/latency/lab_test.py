"""Measures on this machine, but no test depends on how long anything takes."""

from __future__ import annotations

import json

import pytest

from cprune_tf import graph
from cprune_tf.compiler.profiling import bytes_moved
from cprune_tf.compiler.roofline import measure_roofline
from cprune_tf.config import MeasureConfig
from cprune_tf.latency.prediction import LatencyPredictor, spread_assignments
from cprune_tf.latency.profile import profile_model
from cprune_tf.latency.sampling import SamplingConfig, sample_staircase, structure_counts
from cprune_tf.latency.sites import tasks_by_site
from tests.compiler.workloads import conv_task

_MEASURE = MeasureConfig(warmup_ms=1, min_samples=3, max_time_sec=0.05, stable_fraction=1.0)


def _site(lab, anchor):
    (site,) = (site for site in lab.sites if site.anchor == anchor)
    return site


def test_sites_know_the_channels_on_both_sides(lab):
    units = lab.full({"stem": 6, "pointwise": 12, "inner": 10})
    assert _site(lab, "stem").counts(units)[1] == 6
    assert _site(lab, "depthwise").counts(units) == (6, 6)
    assert _site(lab, "pointwise").counts(units) == (6, 12)
    assert _site(lab, "inner").counts(units) == (12, 10)
    assert _site(lab, "outer").counts(units) == (10, 12)
    # Four positions of each channel reach the classifier.
    assert _site(lab, "classifier").counts(units) == (48, 4)


def test_counts_and_flops_are_those_of_the_compiled_model(lab):
    keep = {"stem": 4, "pointwise": 8, "inner": 12}
    tasks = tasks_by_site(lab.prepare(keep))
    assert tasks.keys() == {site.key for site in lab.sites}
    units = lab.full(keep)
    for site in lab.sites:
        task = tasks[site.key]
        shapes = [shape for _, shape in task.argument_shapes]
        if site.makes_channels:
            inputs, outputs = site.counts(units)
            assert shapes[-1][-1] == outputs
            assert shapes[1][-2:] == (4 if site.anchor == "stem" else inputs, outputs)
        assert site.flops(site.counts(units)) == pytest.approx(task.flops, rel=0.1)


def test_families_leave_channel_counts_open(lab):
    assert "3x3x4x*" in _site(lab, "stem").family
    assert "3x3x*x*" in _site(lab, "inner").family
    assert "*x4" in _site(lab, "classifier").family
    assert len({site.family for site in lab.sites}) == len(lab.sites)


def test_an_assignment_is_measured_once(lab):
    keep = {"pointwise": 8}
    first = lab.missing(keep)
    tasks = []
    assert lab.measure(keep, tasks.append) == first
    # The subgraphs with the group on one of their sides, and all others if none was measured yet.
    assert 0 < len(tasks) == first
    count, repeated_tasks = len(lab.store), []
    assert lab.measure(keep, repeated_tasks.append) == 0
    assert repeated_tasks == [] and len(lab.store) == count and lab.missing(keep) == 0
    assert lab.tasks_ms(keep) > 0


def test_an_unmeasured_assignment_has_no_sum(lab):
    with pytest.raises(KeyError, match="not measured"):
        lab.tasks_ms({"inner": 3})


@pytest.mark.parametrize("keep", [{"stem": 0}, {"stem": 9}])
def test_impossible_counts_are_refused(lab, keep):
    with pytest.raises(ValueError, match="expected 1 to 8"):
        lab.prepare(keep)


def test_a_staircase_covers_the_subgraphs_that_the_count_affects(lab):
    config = SamplingConfig(max_points=4, first_points=3, smallest=0.25)
    group = lab.channels["inner"]
    counts = []
    staircase = sample_staircase(lab, group, config, on_point=lambda done, n: counts.append(n))
    assert counts[0] == 16 and 3 <= len(counts) == len(staircase.stairs) <= 4
    assert staircase.layers == ("inner",) and staircase.stairs[0].count == 4
    for stair in staircase.stairs:
        units = lab.full({"inner": stair.count})
        made_ms, used_ms = (
            lab.store.get(site.family, site.counts(units)).latency_ms
            for site in (_site(lab, "inner"), _site(lab, "outer"))
        )
        assert (stair.made_ms, stair.used_ms) == (made_ms, used_ms)
    whole_ms = staircase.stairs[-1].latency_ms + staircase.rest_ms
    assert whole_ms == pytest.approx(lab.tasks_ms({}))

    count = len(lab.store)
    assert sample_staircase(lab, group, config) == staircase
    assert len(lab.store) == count


def test_structure_counts_divide_by_an_inner_tile(lab):
    counts = structure_counts(lab, lab.channels["inner"])
    assert all(1 <= count <= 16 for count in counts)
    assert len(set(counts)) == len(counts)


def test_protected_channels_have_no_staircase(lab):
    with pytest.raises(ValueError, match="cannot be pruned"):
        sample_staircase(lab, lab.channels["classifier"])


def test_spread_assignments_meet_every_part_of_a_range():
    channels = graph.analyze(_wide())
    assignments = spread_assignments(channels, 8, seed=1)
    assert assignments == spread_assignments(channels, 8, seed=1)
    assert assignments != spread_assignments(channels, 8, seed=2)
    for group in channels.prunable:
        counts = [keep[group.name] for keep in assignments]
        assert all(count % 4 == 0 and 8 <= count <= 32 for count in counts)
        assert len(set(counts)) >= 5  # Out of seven possible counts.


def _wide():
    import keras
    from keras import layers

    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(32, 3, name="a")(image)
    return keras.Model(image, layers.Conv2D(4, 1)(layers.Conv2D(32, 1, name="b")(x)))


def test_a_measured_assignment_is_predicted_as_measured(lab):
    keep = {"pointwise": 8, "inner": 8}
    lab.measure(keep)
    predictor = LatencyPredictor(lab.sites, lab.units, lab.store.points, _no_overhead())
    prediction = predictor.predict_ms(keep)
    assert all(task.measured for task in prediction.per_task)
    assert prediction.latency_ms == pytest.approx(lab.tasks_ms(keep))
    assert sum(task.latency_ms for task in prediction.per_task) == pytest.approx(
        prediction.latency_ms
    )


def test_an_unmeasured_assignment_is_predicted_with_uncertainty(lab):
    lab.measure({})
    predictor = LatencyPredictor.from_lab(lab)
    keep = {"stem": 7, "inner": 7}
    assert lab.missing(keep) > 0
    count = len(lab.store)
    prediction = predictor.predict_ms(keep)
    assert len(lab.store) == count
    assert prediction.latency_ms > 0 and prediction.uncertainty_ms > 0
    deviations = {
        task.layers[0]: task.uncertainty_ms / task.latency_ms for task in prediction.per_task
    }
    assert not any(task.measured for task in prediction.per_task if task.layers[0] == "inner")
    assert deviations["inner"] > 0


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [({"nothing": 4}, KeyError, "nothing"), ({"stem": 99}, ValueError, "expected 1 to 8")],
)
def test_a_prediction_needs_groups_and_counts_that_exist(lab, keep, error, message):
    lab.measure({})
    with pytest.raises(error, match=message):
        LatencyPredictor.from_lab(lab).predict_ms(keep)


def _no_overhead():
    from cprune_tf.latency.prediction import fit_overhead

    return fit_overhead(())


def test_whole_models_are_timed_once(lab, opened, workdir):
    assignments = [{}, {"pointwise": 8, "inner": 8}]
    before = len(lab.store.wholes)
    lab.calibrate(assignments, _MEASURE, workdir)
    assert len(lab.store.wholes) == before + 2
    lab.calibrate(assignments, _MEASURE, workdir)
    assert len(lab.store.wholes) == before + 2
    for whole in lab.store.wholes:
        assert whole.whole_ms > 0
        assert whole.tasks_ms == pytest.approx(lab.tasks_ms(whole.units))


def test_the_roofline_is_plausible(opened):
    roofline = measure_roofline(opened.device, 1)
    assert roofline.peak_gflops > 1
    sizes = [bandwidth.working_set_bytes for bandwidth in roofline.bandwidths]
    assert sizes == sorted(sizes)
    for bandwidth in roofline.bandwidths:
        rate = bandwidth.gb_per_sec
        assert rate > 0.1
        assert roofline.bandwidth_gb_per_sec(bandwidth.working_set_bytes) == pytest.approx(rate)
    first, second = roofline.bandwidths[:2]
    middle = roofline.bandwidth_gb_per_sec(first.working_set_bytes * 2)
    rates = sorted((first.gb_per_sec, second.gb_per_sec))
    assert rates[0] <= middle <= rates[1]
    assert roofline.bandwidth_gb_per_sec(1) == first.gb_per_sec
    flops = 1e9
    assert roofline.compute_ms(flops) == pytest.approx(flops / (roofline.peak_gflops * 1e6))
    assert roofline.bound_ms(flops, 4) == roofline.compute_ms(flops)
    assert roofline.bound_ms(1, 1e9) == roofline.memory_ms(1e9)


def test_a_profile_names_layers_groups_and_overhead(opened):
    roofline = measure_roofline(opened.device, 1)
    profile = profile_model(opened, roofline, _MEASURE)
    layers = {layer for row in profile.tasks for part in row.task.subgraphs for layer in part}
    assert {"stem", "depthwise", "pointwise", "inner", "outer", "add", "classifier"} <= layers
    (inner,) = (row for row in profile.tasks if row.task.subgraphs[0][0] == "inner")
    assert inner.groups == ("pointwise", "inner")
    assert sum(row.task.share for row in profile.tasks) == pytest.approx(1)
    total = sum(row.timed_ms * row.task.weight for row in profile.tasks)
    assert profile.tasks_ms == pytest.approx(total)
    assert profile.overhead_ms == profile.whole_ms - profile.tasks_ms
    content = json.loads(json.dumps(profile.to_json()))
    assert content["overhead_fraction"] == pytest.approx(profile.overhead_ms / profile.whole_ms)
    task = conv_task(opened.prepared, "inner")
    # 8x8x16 in and out, 3x3x16x16 weights and 16 biases, four bytes each.
    assert (
        bytes_moved(task.argument_shapes)
        == inner.task.bytes_moved
        == 4 * (2 * 8 * 8 * 16 + 9 * 256 + 16)
    )
