from __future__ import annotations

import dataclasses
import shutil

import pytest
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from cprune_tf.compiler.building import linker
from cprune_tf.compiler.building.builder import ProgramBuilder
from cprune_tf.compiler.database import ProgramDatabase
from cprune_tf.compiler.tuning.measuring import Job, ProgramMeasurer
from cprune_tf.compiler.tuning.tuner import Tuner, TuningError
from cprune_tf.devices.errors import DeviceUnreachableError
from cprune_tf.devices.local import LocalDevice

from .. import workloads

ROUNDS_OF_6 = dataclasses.replace(workloads.FEW_TRIALS, trials_per_round=6)


@dataclasses.dataclass
class Bench:
    """A tuner with a database of its own."""

    database: ProgramDatabase
    measurer: ProgramMeasurer
    tuner: Tuner


def price(bench, task, sources):
    """The latency of a task, from programs transferred to its shape."""
    bench.tuner.price_all([(task, sources)])
    return task.best_latency_ms(bench.database)


@pytest.fixture(scope="module")
def make_bench(device, builder, target):
    def make(directory, *, seed=0, builder=builder, config=ROUNDS_OF_6):
        database = ProgramDatabase(directory)
        measurer = ProgramMeasurer(
            device, builder, database, target, num_threads=1, timeout_sec=60.0
        )
        return Bench(database, measurer, Tuner(measurer, config, seed=seed))

    return make


@pytest.fixture(scope="module")
def conv(target):
    return workloads.direct_task(workloads.lowered(workloads.conv_model(), target))


@pytest.fixture(scope="module")
def tuned_once(make_bench, conv, tmp_path_factory):
    """The conv tuned in two rounds: (folder, summary, calls of progress)."""
    directory = tmp_path_factory.mktemp("once")
    calls = []
    bench = make_bench(directory)
    summary = bench.tuner.tune([conv], 12, lambda *call: calls.append(call))
    return directory, summary, calls


def test_tuned_programs_are_in_the_database(tuned_once, conv):
    directory, summary, _ = tuned_once
    database = ProgramDatabase(directory)
    programs = database.programs(conv.mod)
    # A round may be a little short: programs met before are not measured again.
    assert 9 <= summary.num_trials <= 12 and summary.num_failed == 0
    assert len(programs) == len(database) == summary.num_trials
    assert all(program.latency_ms > 0 for program in programs)
    for program in programs:  # every trace can be applied again
        program.trace.apply_to_schedule(Schedule(conv.mod), remove_postproc=False)


def test_no_program_is_measured_twice(tuned_once, conv):
    database = ProgramDatabase(tuned_once[0])
    traces = [str(program.trace) for program in database.programs(conv.mod)]
    assert len(set(traces)) == len(traces)


def test_progress_never_goes_back_and_ends_complete(tuned_once, conv):
    _, _, calls = tuned_once
    done = [call[0] for call in calls]
    assert len(calls) >= 3 and done == sorted(done) and done[0] > 0
    assert {call[1] for call in calls} == {12} and done[-1] == 12
    assert all(conv.name in call[2] for call in calls[:-1])


def test_resuming_measures_nothing_again(tuned_once, conv, make_bench):
    directory, summary, _ = tuned_once
    calls = []
    again = make_bench(directory, seed=1).tuner.tune([conv], 12, lambda *call: calls.append(call))
    assert (again.num_trials, again.num_failed) == (0, 0)
    assert calls == [(0, 0, "done")]
    assert len(ProgramDatabase(directory)) == summary.num_trials


def test_the_seed_decides_the_random_programs_of_a_first_round(conv, make_bench, tmp_path):
    """Looked at before they are measured: that would take long and change nothing."""

    def sampled(seed):
        tuner = make_bench(tmp_path, seed=seed).tuner
        return [str(schedule.trace) for schedule in tuner._first_programs.sample(conv, 32)]

    once = sampled(5)
    assert len(set(once)) > 20
    assert all(sampled(5) == once for _ in range(3))
    assert sampled(6) != once


def test_a_second_shape_starts_from_the_firsts_programs(tuned_once, target, make_bench, conv):
    bench = make_bench(tuned_once[0])
    similar = workloads.direct_task(workloads.lowered(workloads.conv_model(filters=12), target))
    sources = set(_image_tiles(bench.database, conv))
    bench.tuner.tune([conv, similar], 6)
    # A quarter of the first round; random programs hardly ever tile height and width just so.
    moved = [tiles for tiles in _image_tiles(bench.database, similar) if tiles in sources]
    assert moved


def _image_tiles(database, task):
    """How a task's programs tile height and width, which other filters leave alone."""
    return [tuple(workloads.tiles(program)[1:3]) for program in database.programs(task.mod)]


def test_all_programs_failing_is_an_error_with_the_first_message(
    conv, make_bench, target, tmp_path
):
    with ProgramBuilder(target, num_workers=1, timeout_sec=0.001) as hasty:
        bench = make_bench(tmp_path, builder=hasty)
        with pytest.raises(
            TuningError, match=r"All 2 programs of task conv2d_add_relu \(conv"
        ) as e:
            bench.tuner.tune([conv], 2)
        assert "build: TimeoutError" in str(e.value)
        assert len(bench.database) == 0


def test_a_device_that_cannot_run_what_is_built_is_an_error_too(conv, make_bench, tmp_path):
    """Built for another machine, every program fails when it is loaded."""
    import tvm

    pytest.importorskip("ziglang")
    linker.linker_command("aarch64")
    arm = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "num-cores": 1})
    with ProgramBuilder(arm, num_workers=1, timeout_sec=120.0) as foreign:
        bench = make_bench(tmp_path, builder=foreign)
        with pytest.raises(TuningError, match="The first says: run: "):
            bench.tuner.tune([conv], 2)


def test_a_price_is_the_best_of_the_transferred_programs(tuned_once, make_bench, target, conv):
    bench = make_bench(tuned_once[0])
    pruned = workloads.direct_task(workloads.lowered(workloads.conv_model(filters=8), target))
    price_ms = price(bench, pruned, [conv])
    programs = bench.database.programs(pruned.mod)
    assert 1 <= len(programs) <= ROUNDS_OF_6.programs_per_task
    assert price_ms == pytest.approx(programs[0].latency_ms)
    # The second time it is known, whatever the sources.
    assert price(bench, pruned, []) == price_ms
    assert len(bench.database.programs(pruned.mod)) == len(programs)


def test_a_price_without_sources_comes_from_random_programs(tuned_once, make_bench, target):
    bench = make_bench(tuned_once[0])
    alone = workloads.direct_task(workloads.lowered(workloads.conv_model(3, 4, kernel=1), target))
    assert price(bench, alone, []) > 0
    assert 1 <= len(bench.database.programs(alone.mod)) <= ROUNDS_OF_6.programs_per_task


def test_a_task_without_seeds_is_never_slower_than_its_plain_loops(make_bench, target, tmp_path):
    """A softmax has no register tiles: its loops as they are are among what is measured."""
    import keras

    image = keras.Input((12, 6), name="x")
    model = keras.Model(image, keras.layers.Softmax(name="softmax")(image))
    (task,) = workloads.lowered(model, target).tasks
    bench = make_bench(tmp_path)
    bench.tuner.tune([task], 4)
    programs = bench.database.programs(task.mod)
    plain = [program for program in programs if len(program.trace.insts) == 1]
    assert len(plain) == 1 and programs[0].latency_ms <= plain[0].latency_ms
    # Another shape is priced from it, and the model builds whichever is the fastest.
    wider = keras.Input((12, 8), name="x")
    other = keras.Model(wider, keras.layers.Softmax(name="softmax")(wider))
    (pruned,) = workloads.lowered(other, target).tasks
    assert price(bench, pruned, [task]) > 0
    assert any(len(p.trace.insts) == 1 for p in bench.database.programs(pruned.mod))


def test_measuring_tells_failures_apart(conv, make_bench, target, tmp_path):
    """One schedule that cannot be built costs itself; the other is measured and kept."""
    bench = make_bench(tmp_path)
    good = Schedule(conv.mod)
    loops = good.get_loops(good.get_sblock("conv2d_nhwc"))
    good.split(loops[3], [None, 4])
    bad = Schedule(conv.mod)
    bad.bind(bad.get_loops(bad.get_sblock("conv2d_nhwc"))[1], "threadIdx.x")
    broken, measured = bench.measurer.measure(conv.mod, [bad, good])
    assert broken.latency_ms is None and broken.error.startswith("build: ")
    assert measured.error is None
    assert bench.database.best_latency_ms(conv.mod) == pytest.approx(measured.latency_ms)
    assert len(bench.database) == 1


def test_what_was_timed_is_kept_when_the_device_is_lost(conv, make_bench, device, tmp_path):
    """Lost in the second pass over a round's programs: each has one sample by then."""
    bench = make_bench(tmp_path)
    calls = []

    class Lost(LocalDevice):
        def time_kernel(self, *args, **kwargs):
            calls.append(args)
            if len(calls) == 6:
                raise DeviceUnreachableError("gone")
            return device.time_kernel(*args, **kwargs)

    bench.measurer._device = Lost()
    with pytest.raises(DeviceUnreachableError, match="gone"):
        bench.measurer.measure(conv.mod, bench.tuner._first_programs.sample(conv, 4))
    assert len(bench.database) == 4


def test_elsewhere_programs_are_timed_while_others_are_built(conv, make_bench, device, tmp_path):
    bench = make_bench(tmp_path)
    unbuilt = []

    class Elsewhere(LocalDevice):
        shares_host = False

        def map(self, function, jobs):
            jobs = list(jobs)
            unbuilt.append(sum(not job.build.done() for job in jobs if isinstance(job, Job)))
            return super().map(function, jobs)

        def time_kernel(self, *args, **kwargs):
            return device.time_kernel(*args, **kwargs)

    bench.measurer._device = Elsewhere()
    results = bench.measurer.measure(conv.mod, bench.tuner._first_programs.sample(conv, 4))
    assert unbuilt[0] >= 3  # timing began before the builds had ended
    assert all(result.latency_ms for result in results) and len(bench.database) == 4


def test_every_lowering_gets_a_round_and_rounds_count_together(make_bench, target, tmp_path):
    bench = make_bench(tmp_path)
    task = workloads.conv_task(workloads.lowered(workloads.conv_model(), target))
    (other,) = task.alternatives
    summary = bench.tuner.tune([task], 12)
    measured = [len(bench.database.programs(lowered.mod)) for lowered in task.lowerings]
    assert min(measured) >= 2 and sum(measured) == summary.num_trials <= 16
    fastest = task.fastest(bench.database)
    assert fastest is not None
    best = {k.lowering: bench.database.best_latency_ms(k.mod) for k in (task, other)}
    assert fastest[0].lowering == min(best, key=best.get)


def test_a_resumed_search_learns_what_was_measured_before(
    tuned_once, make_bench, conv, tmp_path, monkeypatch
):
    taught = []
    update = ms.cost_model.XGBModel.update
    monkeypatch.setattr(
        ms.cost_model.XGBModel,
        "update",
        lambda self, context, candidates, results: (
            taught.append([float(result.run_secs[0]) for result in results]),
            update(self, context, candidates, results),
        )[1],
    )
    bench = make_bench(shutil.copytree(tuned_once[0], tmp_path / "resumed"))
    known = [program.latency_ms for program in bench.database.programs(conv.mod)]
    bench.tuner.tune([conv], len(known) + 6)
    (first,) = taught
    assert [seconds * 1e3 for seconds in first] == pytest.approx(known)
    found = len(bench.database.programs(conv.mod)) - len(known)
    bench.tuner.tune([conv], len(known) + found + 6)
    assert [len(results) for results in taught[1:]] == [found]  # then the new ones, once


def test_rounds_are_as_long_as_keeps_the_build_processes_busy(
    make_bench, builder, conv, tmp_path, monkeypatch
):
    monkeypatch.setattr("cprune_tf.compiler.tuning.budgeting._TRIALS_PER_WORKER", 3)
    by_machine = dataclasses.replace(ROUNDS_OF_6, trials_per_round=0)
    bench = make_bench(tmp_path, config=by_machine)
    calls = []
    bench.tuner.tune([conv], 8, lambda *call: calls.append(call))
    assert calls[0][:2] == (3 * builder.num_workers, 8)


def test_a_task_that_gains_nothing_more_gets_no_more_rounds(make_bench, target, tmp_path):
    """The last rounds of a tiny task cannot make it faster; a limit of one round finds that out."""
    impatient = dataclasses.replace(ROUNDS_OF_6, max_rounds_without_gain=1)
    task = workloads.direct_task(workloads.lowered(workloads.conv_model(size=4), target))
    bench = make_bench(tmp_path, config=impatient)
    summary = bench.tuner.tune([task], 600)
    assert 6 <= summary.num_trials < 300


def test_tuning_ends_where_little_more_is_expected(make_bench, conv, tmp_path):
    """The first round is followed by an expectation of 10 %: below the limit, no second comes."""
    for number, (limit, rounds) in enumerate(((0.2, 1), (0.05, 2))):
        easy = dataclasses.replace(ROUNDS_OF_6, stop_within=limit)
        summary = make_bench(tmp_path / str(number), config=easy).tuner.tune([conv], 12)
        assert 6 * rounds - 3 <= summary.num_trials <= 6 * rounds


def test_no_round_starts_after_the_time_is_over(make_bench, conv, tmp_path):
    at_once = dataclasses.replace(ROUNDS_OF_6, max_tuning_sec=1e-6)
    summary = make_bench(tmp_path, config=at_once).tuner.tune([conv], 60)
    assert 4 <= summary.num_trials <= 6  # the first round of every task comes regardless
