from __future__ import annotations

import dataclasses
import json

import pytest

from cprune_tf.devices import DeviceInfo, Latency
from cprune_tf.devices.agent.accelerators import Accelerator
from cprune_tf.devices.base import Cluster
from cprune_tf.devices.latency import Conditions
from cprune_tf.runs import events, results
from cprune_tf.runs.journal import Journal, JournalError, read_records

_GPU = Accelerator("cuda", "A GPU", "sm_75", 1024, 32, None, 2**34)
_DEVICE = DeviceInfo(
    kind="local",
    abi="x86_64",
    cpu_name="A CPU",
    num_cores=2,
    features=("avx", "fma"),
    memory_bytes=2**33,
    max_frequency_mhz=None,
    governor="performance",
    temperature_celsius=41.5,
    os="Linux",
    python="3.11.2",
    runtimes={"tvm": "0.27.0", "litert": None},
    emulated=False,
    clusters=(Cluster((0, 1), "0x41:0xd0b", 2400.0),),
    accelerators=(_GPU,),
)
_LATENCY = Latency(1.0, 0.9, 1.1, 0.8, 50, 2, Conditions((0, 1), 50.0, processor="CPU"))
_TASK = results.TaskRecord(
    "fused_conv2d", "conv2d", 2, ("conv",), ("conv",), 1e6, 0.1, 0.2, 0.9, 20.0, 8, "[1, 8]", None
)
_MODEL = results.ModelRecord(
    1, 0.9, _LATENCY, 0.8, 1000, 2e6, {"conv": 16}, (_TASK,), "models/iter_0001.keras", "h.json"
)
_FIELDS = {f.name: getattr(_MODEL, f.name) for f in dataclasses.fields(_MODEL)}
_RESULTS = (
    results.RuntimeResult("original", "keras", 0.9, 0.0, 0.0, 1.0, None, ()),
    results.RuntimeResult("original", "tvm", 0.9, 1e-6, 1e-6, 1.0, 9999, (_LATENCY,)),
)
_CHECK = results.CrossCheck(
    _DEVICE, "top1", 100, _RESULTS, (results.Speedup("pruned", "original", "tvm", 1, 2, 1, 3),), ()
)
_JUDGED = events.CandidateJudged(
    index=0,
    iteration=0,
    key="conv",
    task="fused_conv2d",
    layers=("conv",),
    removed={"conv": 8},
    step=8,
    price_ms=0.9,
    current_latency_ms=1.2,
    measured=_LATENCY,
    accuracy=0.9,
    current_accuracy=0.91,
    decision=events.ACCEPTED,
    reason="faster",
    elapsed_sec=3.0,
    accepted=_MODEL,
)
_EVENTS = (
    events.RunStarted("0.1.0", "abc", "resnet", _DEVICE, False),
    events.EnvironmentChanged(("numpy: was 1, is 2",), {"packages": {"numpy": "2"}, "x": [1]}),
    events.DataDescribed("images", None, 1_200, 2_000),
    events.Evaluated(0.91),
    events.Baseline(**_FIELDS, required_accuracy=0.9, metric="top5"),
    events.CountRuledOut("conv", 4, 1.01, "priced at 101 %"),
    events.CandidatePlanned(0, 1, "conv@16", {"conv": (1, 5)}, 0.85, "14 of 16 units take 85 %"),
    events.ProposalTrained(0, "conv@16", 0.9),
    events.CandidateMeasured(0, {"conv": (1, 5)}, _LATENCY, 1.2, 0.83),
    events.SoftStarted(0, 2, 9, 0.1, "models/soft_start.keras"),
    events.PatternsTrained(
        0,
        "admm",
        3,
        (results.PatternEpoch(0.5, 0.25), results.PatternEpoch(0.1, None)),
        (results.DrawnPattern(3, 3, (0, 1, 3, 4), 0.25, 0.5),),
        (results.PatternLayer("conv", 3, 3, 4, 8, 2, 32, 9, 1, 36, 200),),
        "models/patterns.npz",
        "models/patterns.keras",
    ),
    _JUDGED,
    dataclasses.replace(
        _JUDGED, decision=events.REFUSED_LATENCY, measured=None, accuracy=None, accepted=None
    ),
    events.Accepted(**_FIELDS),
    events.Stopped("no task is left", 1),
    events.LongTermTrained(0.9, 12, "trained", "final.keras"),
    events.Exported((results.ExportedFile("Keras model", "final.keras", 12),)),
    events.CrossChecked.of(_CHECK),
    events.StageEnded("Prune", 12.5),
    events.Finished(99.0, 2**31),
)


def test_every_event_is_read_back_as_it_was(tmp_path):
    assert {type(event) for event in _EVENTS} == set(events.RUN_EVENTS.events)
    path = tmp_path / "journal.jsonl"
    with Journal(path, events.RUN_EVENTS) as journal:
        for event in _EVENTS:
            assert journal.append(event) == event
        assert journal.last(events.Accepted) == events.Accepted(**_FIELDS)
        assert len(journal.events(events.Baseline)) == 1, "an accepted model is no baseline"
        assert journal.last(events.CrossChecked).latency("original", "tvm", 2) == _LATENCY
    assert tuple(record.event for record in read_records(path, events.RUN_EVENTS)) == _EVENTS


def test_cross_check_is_as_flat_as_its_json(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, events.RUN_EVENTS) as journal:
        journal.append(events.CrossChecked.of(_CHECK))
    line = json.loads(path.read_text().splitlines()[-1])
    fields = {name: line[name] for name in line if name not in ("seq", "time", "event")}
    assert fields == json.loads(json.dumps(_CHECK.to_json()))


@pytest.mark.parametrize("kind", ["baseline", "candidate", "cross_check"])
def test_a_field_of_another_type_is_named(tmp_path, kind):
    path = tmp_path / "journal.jsonl"
    with Journal(path, events.RUN_EVENTS) as journal:
        for event in _EVENTS:
            journal.append(event)
    places = {
        "baseline": "baseline.latency.conditions.cores",
        "candidate": "candidate.measured.conditions.cores",
        "cross_check": "cross_check.device.clusters[0].cores",
    }
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    number = next(line["seq"] for line in lines if line["event"] == kind)
    path.write_text(
        "".join(
            json.dumps(line).replace('"cores": [0, 1]', '"cores": "all"') + "\n"
            if line["seq"] == number
            else json.dumps(line) + "\n"
            for line in lines
        )
    )
    with pytest.raises(JournalError) as caught:
        read_records(path, events.RUN_EVENTS)
    expected = f"line {number + 1} (event {kind!r}) cannot be read: "
    assert expected in str(caught.value)
    assert f"{places[kind]}: expected a list, received 'all'" in str(caught.value)
