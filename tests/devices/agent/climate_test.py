"""Temperature and frequency limits, as the kernel tells them in files."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from cprune_tf.devices.agent import climate, description
from cprune_tf.devices.latency import Conditions, Latency


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose files the test writes."""
    monkeypatch.setattr(description, "_CPU", tmp_path / "cpu")
    monkeypatch.setattr(description, "_THERMAL", tmp_path / "thermal")
    monkeypatch.setattr(climate, "_COOL_POLL_SEC", 0.01)

    def write(celsius=None, allowed_mhz=None, possible_mhz=None):
        for path, value in (
            ("thermal/thermal_zone0/temp", celsius),
            ("cpu/cpu0/cpufreq/scaling_max_freq", allowed_mhz),
            ("cpu/cpu0/cpufreq/cpuinfo_max_freq", possible_mhz),
        ):
            if value is not None:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_text(f"{int(value * 1000)}\n")

    return write


def test_what_was_seen_is_told(machine):
    machine(celsius=41, allowed_mhz=2000, possible_mhz=2000)
    watched = climate.Climate((0,), None)
    machine(celsius=48)
    watched.before_block()
    machine(celsius=44)
    assert watched.conditions() == {
        "cores": [0],
        "temperature_celsius": 48.0,
        "cooled_sec": 0.0,
        "throttled": False,
    }


def test_a_lowered_frequency_limit_is_throttling(machine):
    machine(allowed_mhz=2000, possible_mhz=2000)
    watched = climate.Climate((0,), None)
    machine(allowed_mhz=1500)
    watched.before_block()
    machine(allowed_mhz=2000)
    assert watched.conditions()["throttled"]


def test_a_warm_device_is_left_to_cool_down(machine):
    machine(celsius=60)
    watched = climate.Climate((0,), 50.0)
    threading.Timer(0.3, lambda: machine(celsius=45)).start()
    watched.before_block()
    assert 0.2 <= watched.conditions()["cooled_sec"] < 10


def test_a_device_that_never_cools_down_is_not_waited_for_for_ever(machine, monkeypatch):
    monkeypatch.setattr(climate, "_LONGEST_COOLING_SEC", 0.2)
    machine(celsius=60)
    watched = climate.Climate((0,), 50.0)
    watched.before_block()
    assert watched.conditions()["temperature_celsius"] == 60


def test_no_more_cores_are_used_than_the_process_was_given():
    script = (
        "import os\n"
        "first = min(os.sched_getaffinity(0))\n"
        "os.sched_setaffinity(0, {first})\n"
        "from cprune_tf.devices.agent.climate import pin\n"
        "pin(()); pin((first,)); pin(())\n"
        "print(os.sched_getaffinity(0) == {first})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b"True"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_that_run_already_are_pinned_too():
    script = (
        "import os, threading, time\n"
        "cores = sorted(os.sched_getaffinity(0))\n"
        "thread = threading.Thread(target=time.sleep, args=(60,), daemon=True)\n"
        "thread.start()\n"
        "from cprune_tf.devices.agent.climate import pin\n"
        "pin(cores[1:2])\n"
        "print(os.sched_getaffinity(thread.native_id) == {cores[1]})\n"
        "pin(())\n"
        "print(sorted(os.sched_getaffinity(thread.native_id)) == cores)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.split() == [b"True", b"True"]


def test_every_latency_says_what_it_was_measured_under():
    conditions = Conditions((4, 5), 51.2, 0.0, throttled=True, emulated=True)
    latency = Latency.from_samples([1.0, 2.0], 2, conditions)
    assert str(latency).endswith("2 threads, cores 4,5, 51 °C, throttled, emulated)")
    assert Latency.from_json(latency.to_json()) == latency
