from __future__ import annotations

import dataclasses
import gzip
import json

import pytest
import tvm

from cprune_tf.compiler.building.builder import build_program
from cprune_tf.compiler.database import RECORDS, WORKLOADS, ProgramDatabase
from cprune_tf.compiler.transfer import Transfer
from cprune_tf.compiler.tuning import warm_start
from cprune_tf.compiler.tuning.measuring import ProgramMeasurer
from cprune_tf.compiler.tuning.tuner import Tuner
from cprune_tf.compiler.tuning.warm_start import WarmStart, export_programs, open_warm_start
from cprune_tf.config import ConfigError

from .. import workloads

ARM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "num-cores": 1}
AARCH64_MACHINE = 183  # in an ELF header


def _task(target, **shape):
    return workloads.direct_task(workloads.lowered(workloads.conv_model(**shape), target))


@pytest.fixture(scope="module")
def make_tuner(device, builder, target):
    def make(directory, start=None, **changes):
        config = dataclasses.replace(workloads.FEW_TRIALS, **changes)
        database = ProgramDatabase(directory)
        measurer = ProgramMeasurer(
            device, builder, database, target, num_threads=1, timeout_sec=60.0
        )
        return database, Tuner(measurer, config, seed=0, warm_start=start)

    return make


@pytest.fixture(scope="module")
def earlier(make_tuner, target, tmp_path_factory):
    """An earlier run's database: two convolutions of 8 and 16 filters."""
    directory = tmp_path_factory.mktemp("earlier")
    _, tuner = make_tuner(directory)
    tuner.tune([_task(target, filters=8), _task(target, filters=16)], 6)
    return directory


def test_the_nearest_shapes_come_first(earlier, target):
    start = WarmStart(earlier)
    for filters, nearest in ((9, 8), (15, 16)):
        mod = _task(target, filters=filters).mod
        first, *_ = start.nearest(mod, 4)
        output = workloads.arguments(first.record.workload.mod)[-1]
        assert int(output.shape[-1]) == nearest
        assert 1 <= len(start.nearest(mod, 2)) <= 2


def test_other_computations_start_from_nothing(earlier):
    assert WarmStart(earlier).nearest(workloads.dense_workload(16), 4) == ()


def test_a_first_round_measures_them_again(earlier, target, make_tuner, tmp_path):
    """Transferred tilings of height and width are in the round; with no folder they are not."""
    task = _task(target, filters=12)
    start = WarmStart(earlier)
    known = {tuple(workloads.tiles(p)[1:3]) for p in start.nearest(task.mod, 4)}

    def met(start):
        database, tuner = make_tuner(tmp_path / str(start is None), start, trials_per_round=8)
        tuner.tune([task], 8)
        return [p for p in database.programs(task.mod) if tuple(workloads.tiles(p)[1:3]) in known]

    assert len(met(start)) > len(met(None))


def test_exported_programs_start_a_run_as_well(earlier, target, tmp_path):
    output = tmp_path / "programs"
    assert export_programs([earlier, earlier], output, {"cpu": "this one"}, programs=2) == 2
    lines = gzip.decompress((output / f"{RECORDS}.gz").read_bytes()).decode().splitlines()
    assert 2 <= len(lines) <= 4
    mod = _task(target, filters=9).mod
    expected = WarmStart(earlier).nearest(mod, 1)[0]
    found = WarmStart(output).nearest(mod, 1)[0]
    assert str(found.trace) == str(expected.trace)
    assert found.latency_ms == pytest.approx(expected.latency_ms)
    assert export_programs([earlier], tmp_path / "none", {}, min_measured=7) == 0
    about = json.loads((output / "about.json").read_text())
    assert about["cpu"] == "this one" and about["tvm"]
    first = (output / f"{WORKLOADS}.gz").read_bytes()
    export_programs([earlier], output, {"cpu": "this one"}, programs=2)
    assert (output / f"{WORKLOADS}.gz").read_bytes() == first


def test_an_unfinished_line_is_left_out(earlier, target, tmp_path, caplog):
    for name in (WORKLOADS, RECORDS):
        (tmp_path / name).write_bytes((earlier / name).read_bytes())
    with (tmp_path / RECORDS).open("ab") as stream:
        stream.write(b"[0, [[")
    assert WarmStart(tmp_path).nearest(_task(target, filters=9).mod, 1)
    assert "cannot be read" in caplog.text


def test_a_folder_without_a_database_is_named(target, tmp_path):
    with pytest.raises(ConfigError, match=r"tuning.warm_start is '.*nowhere'.*Expected the folder"):
        open_warm_start(str(tmp_path / "nowhere"), target)


def test_shipped_programs_of_another_tvm_are_not_used(
    earlier, target, tmp_path, monkeypatch, caplog
):
    export_programs([earlier], tmp_path / "level", {})
    monkeypatch.setattr(warm_start, "_FOLDER", tmp_path)
    monkeypatch.setattr(warm_start, "_level", lambda _: "level")
    mod = _task(target, filters=9).mod
    assert open_warm_start("shipped", target).nearest(mod, 1)
    about = tmp_path / "level" / "about.json"
    about.write_text(about.read_text().replace('"tvm": "', '"tvm": "9'))
    with caplog.at_level("INFO"):
        assert not open_warm_start("shipped", target).nearest(mod, 1)
    assert "not used" in caplog.text
    assert not open_warm_start("", target).nearest(mod, 1)


@pytest.mark.parametrize(
    "level",
    [
        tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3", "num-cores": 1}),
        tvm.target.Target({**ARM, "mcpu": "cortex-a76"}),
    ],
    ids=["x86-64-v3", "armv8.2"],
)
def test_the_shipped_programs_are_this_tvms_and_fit_other_shapes(level):
    start = open_warm_start("shipped", level)
    task = _task(level, filters=24)
    programs = start.nearest(task.mod, 4)
    assert len(programs) == 4
    assert Transfer(level).apply(programs, task.mod, 4)


@pytest.mark.parametrize(
    "cpu, attributes, has_some",
    [
        ("cortex-a76", (), True),
        ("neoverse-n1", ("+neon", "-dotprod", "+fullfp16"), True),
        ("generic", ("+neon", "+dotprod"), True),
        ("generic", (), False),
        ("cortex-a72", ("+neon", "-dotprod", "-fullfp16"), False),
    ],
)
def test_arm_cores_from_8_2_on_get_shipped_programs(cpu, attributes, has_some):
    target = tvm.target.Target({**ARM, "mcpu": cpu, "mattr": list(attributes)})
    found = open_warm_start("shipped", target).nearest(_task(target, filters=24).mod, 4)
    assert bool(found) == has_some


def test_the_programs_shipped_for_arm_can_be_built(tmp_path):
    """Some of them: nothing like them is built by the x86 tests."""
    target = tvm.target.Target({**ARM, "mcpu": "cortex-a76"})
    sources = open_warm_start("shipped", target)._sources
    assert len(sources) > 20
    for source in sources[::6]:
        schedule = source.programs[-1].schedule(source.workload.mod)
        build_program(schedule.mod, target, str(tmp_path / "program.so"))
        header = (tmp_path / "program.so").read_bytes()[:20]
        assert int.from_bytes(header[18:20], "little") == AARCH64_MACHINE
