"""The rig itself: what it says it is, and that adbd can't be reached from outside."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile

import pytest

from cprune_tf.devices import bundle
from tests.rig import emulated

ASK = """
import json, platform, tvm, ai_edge_litert.interpreter, numpy
print(json.dumps([platform.machine(), tvm.__version__, numpy.__version__]))
"""


def test_the_board_is_aarch64_and_has_both_runtimes(rig):
    done = subprocess.run(
        [rig.board_python, "-c", ASK],
        env={**rig.environment(), "TVM_USE_RUNTIME_LIB": "1"},
        capture_output=True,
        check=True,
    )
    machine, tvm_version, numpy_version = json.loads(done.stdout)
    packed = bundle.find_bundle(rig.bundles)
    assert machine == packed.abi == "aarch64"
    assert tvm_version == packed.runtimes["apache-tvm"]
    assert numpy_version == packed.runtimes["numpy"]


def test_a_rig_is_made_once(rig):
    before = (rig.root / "recipe").stat().st_mtime_ns
    assert emulated.rig() == rig
    assert (rig.root / "recipe").stat().st_mtime_ns == before


def test_the_bundle_stays_small_and_holds_no_compiler(rig):
    packed = bundle.find_bundle(rig.bundles)
    assert packed.path.stat().st_size < 60e6
    with tarfile.open(packed.path) as archive:
        names = archive.getnames()
    assert "./site/tvm/lib/libtvm_runtime.so" in names
    assert not [name for name in names if "libtvm_compiler" in name or "site/tensorflow/" in name]


def test_a_damaged_bundle_is_refused(rig, tmp_path):
    packed = bundle.find_bundle(rig.bundles)
    (tmp_path / "bundle.json").write_bytes((rig.bundles / "bundle.json").read_bytes())
    (tmp_path / packed.path.name).write_bytes(packed.path.read_bytes()[:-1])
    with pytest.raises(bundle.BundleError, match=r"missing or damaged.*make_bundle"):
        bundle.find_bundle(tmp_path)
    with pytest.raises(bundle.BundleError, match="There is no bundle"):
        bundle.find_bundle(tmp_path / "none")


def test_the_phones_programs_cannot_open_vsock(rig):
    """Vsock ignores network namespaces, and adbd would listen there too."""
    script = "import socket; socket.socket(); socket.socket(socket.AF_VSOCK)"
    done = subprocess.run(
        [sys.executable, rig.root / "bin" / "without_vsock.py", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Address family not supported" in done.stderr
