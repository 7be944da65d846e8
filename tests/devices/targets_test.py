"""What is compiled for, from what devices say of themselves."""

from __future__ import annotations

import pytest

from cprune_tf.devices import DeviceError, DeviceInfo
from cprune_tf.devices.base import Cluster, select_cores
from cprune_tf.devices.targets import cpu_features, target_for

MODERN = ("asimd", "asimddp", "asimdhp")
PHONE = (
    Cluster((0, 1, 2, 3), "0x41:0xd05", 1800.0),
    Cluster((4, 5, 6), "0x41:0xd41", 2400.0),
    Cluster((7,), "0x41:0xd44", 2840.0),
)


def described(abi="aarch64", features=MODERN, clusters=PHONE):
    known = (None, None, None, None, "Linux", "3.11", {}, False)
    return DeviceInfo("adb", abi, "a phone", 8, features, *known, clusters)


@pytest.mark.parametrize(
    ("cores", "cpu", "ids"),
    [
        ("", "cortex-x1", ()),
        ("big", "cortex-x1", (7,)),
        ("middle", "cortex-a78", (4, 5, 6)),
        ("little", "cortex-a55", (0, 1, 2, 3)),
        ("4-5", "cortex-a78", (4, 5)),
        ("3,4", "cortex-a78", (3, 4)),
    ],
)
def test_cores_decide_what_is_compiled_for(cores, cpu, ids):
    info = described()
    assert select_cores(info, cores) == ids
    assert target_for(info, 1, cores=ids)["mcpu"] == cpu


@pytest.mark.parametrize("cores", ["huge", "8", "0-9", "-1", "1-", "3-2", "a-b", ","])
def test_cores_that_are_not_there_are_refused_with_those_that_are(cores):
    with pytest.raises(DeviceError, match=r"big \(7\), little \(0,1,2,3\), middle \(4,5,6\)"):
        select_cores(described(), cores)


@pytest.mark.parametrize(
    ("part", "cpu"),
    [
        ("0x41:0xd03", "cortex-a53"),
        ("0x41:0xd08", "cortex-a72"),
        ("0x41:0xd0c", "neoverse-n1"),
        ("0x51:0x804", "cortex-a76"),
        ("0x61:0x023", "apple-a14"),
        ("0x99:0x999", "generic"),
        ("", "generic"),
    ],
)
def test_processors_are_known_by_their_numbers(part, cpu):
    target = target_for(described(clusters=(Cluster((0,), part, None),)), 1)
    assert target["mcpu"] == cpu


def test_what_the_processor_lacks_is_switched_off():
    old = described(features=("asimd",), clusters=(Cluster((0,), "0x41:0xd08", None),))
    assert set(target_for(old, 2)["mattr"]) == {"+neon", "-dotprod", "-fullfp16", "-i8mm"}
    assert not cpu_features(old).dotprod
    assert not cpu_features(old).fp16
    assert cpu_features(described()).fp16


def test_every_name_is_known_to_llvm_and_compiles():
    import tvm

    from cprune_tf.devices import targets

    for part in targets._ARM_PARTS:
        target = tvm.target.Target(target_for(described(clusters=(Cluster((0,), part, None),)), 1))
        known = tvm.get_global_func("target.llvm_get_cpu_archlist")(target)
        assert target.attrs["mcpu"] in list(known), part
    for preset, name in targets._PRESETS.items():
        assert target_for(described(), 1, cpu=preset)["mcpu"] == name


def test_a_processor_by_name_counts_and_an_unknown_one_is_refused():
    assert target_for(described(), 1, cpu="cortex-a53")["mcpu"] == "cortex-a53"
    with pytest.raises(DeviceError, match=r"cpu is 'cortex-a99'.*raspberry-pi-4.*cortex-a78"):
        target_for(described(), 1, cpu="cortex-a99")


def test_x86_boards_get_the_widest_level_and_32_bits_are_refused():
    board = described("x86_64", ("avx2", "fma", "f16c", "bmi2"), ())
    assert target_for(board, 1)["mcpu"] == "x86-64-v3"
    assert cpu_features(board).vector == "avx2"
    with pytest.raises(DeviceError, match="is armv7l"):
        target_for(described("armv7l"), 1)
