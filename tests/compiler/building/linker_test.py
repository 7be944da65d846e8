from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tvm

from cprune_tf.compiler.building import linker
from cprune_tf.compiler.session import CompilerSession
from cprune_tf.devices import ModelFile, open_device

from .. import workloads

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the objects are linked and loaded on x86-64"
)


@pytest.fixture(autouse=True)
def _fresh_cache():
    linker.linker_command.cache_clear()
    yield
    linker.linker_command.cache_clear()


@pytest.fixture
def without_ziglang(monkeypatch):
    """As on a machine where the package is not installed: importing it fails."""
    monkeypatch.setitem(sys.modules, "ziglang", None)


@pytest.fixture(scope="module")
def object_file(tmp_path_factory):
    """A C function as an object file, made with whatever compiler is here."""
    directory = tmp_path_factory.mktemp("object")
    source, target = directory / "seven.c", directory / "seven.o"
    source.write_text("int seven(void) { return 7; }\n", encoding="utf-8")
    compiler = shutil.which("cc")
    command = [compiler] if compiler else [sys.executable, "-m", "ziglang", "cc"]
    subprocess.run([*command, "-c", "-fPIC", "-o", target, source], check=True)
    return str(target)


def _check_links(object_file, tmp_path):
    library = tmp_path / "seven.so"
    linker.link_shared(str(library), [object_file], "x86_64")
    assert ctypes.CDLL(str(library)).seven() == 7


def test_links_with_ziglang(object_file, tmp_path):
    pytest.importorskip("ziglang")
    assert "ld.lld" in linker.linker_command("x86_64")
    _check_links(object_file, tmp_path)


@pytest.mark.skipif(shutil.which("cc") is None, reason="this machine has no cc")
def test_links_with_the_system_compiler_where_ziglang_is_missing(
    object_file, tmp_path, without_ziglang
):
    assert linker.linker_command("x86_64")[0] == shutil.which("cc")
    _check_links(object_file, tmp_path)


def test_needs_no_system_compiler(object_file, tmp_path, monkeypatch):
    pytest.importorskip("ziglang")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    _check_links(object_file, tmp_path)


def test_says_what_to_install_where_nothing_links(tmp_path, monkeypatch, without_ziglang):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(linker.LinkError, match="pip install ziglang"):
        linker.linker_command("x86_64")


def test_the_system_compiler_is_not_taken_for_another_machine(without_ziglang):
    with pytest.raises(linker.LinkError, match="aarch64"):
        linker.linker_command("aarch64")


def test_unknown_machine_is_refused_with_the_known_ones():
    with pytest.raises(linker.LinkError, match=r"'riscv64'.*aarch64.*x86_64"):
        linker.linker_command("riscv64")


def test_a_failing_link_carries_the_linkers_words(tmp_path):
    broken = tmp_path / "broken.o"
    broken.write_bytes(b"not an object")
    with pytest.raises(linker.LinkError, match=r"broken\.o") as caught:
        linker.link_shared(str(tmp_path / "broken.so"), [str(broken)])
    # The command, and below it what the linker said of the file.
    command, _, words = str(caught.value).partition("failed:\n")
    assert "broken.so" in command and "broken.o" in words


@pytest.mark.parametrize(
    ("attributes", "machine"),
    [
        ({}, platform.machine()),
        ({"mtriple": "x86_64-linux-gnu"}, "x86_64"),
        ({"mtriple": "aarch64-linux-gnu"}, "aarch64"),
    ],
)
def test_a_targets_triple_decides_the_machine(attributes, machine, tmp_path):
    pytest.importorskip("ziglang")
    target = tvm.target.Target({"kind": "llvm", **attributes})
    with pytest.raises(linker.LinkError, match=linker._EMULATIONS[machine]):
        linker.linker_for(target)(str(tmp_path / "x.so"), [str(tmp_path / "missing.o")])


# --- a linker of the user's own


@pytest.fixture
def recording(tmp_path):
    """A linker that keeps a list of what it linked."""
    compiler = shutil.which("cc") or f"{sys.executable} -m ziglang cc"
    program, log = tmp_path / "my-cc", tmp_path / "log"
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {compiler} "$@"\n')
    program.chmod(0o755)
    return program, log


def test_everything_is_linked_by_a_users_own_linker(recording, tmp_path):
    """Programs that are measured and the library; both run."""
    program, log = recording
    with (
        open_device(f"local?linker={program} -s") as device,
        CompilerSession(
            device, tmp_path / "tuning", workloads.FEW_TRIALS, num_threads=1, seed=0
        ) as session,
    ):
        lowered = session.lower(workloads.conv_model())
        assert session.tune(lowered, 2).num_failed == 0
        num_kernels = log.read_text().count("\n") - 1  # the first was the check
        assert num_kernels >= 2
        session.build(lowered, tmp_path / "model.so")
        file = ModelFile("model", "tvm", tmp_path / "model.so")
        device.run_model(file, np.zeros((1, 8, 8, 8), np.float32))
    links = log.read_text().splitlines()
    assert len(links) == 1 + num_kernels + 1
    assert all(link.startswith("-s -shared -nostdlib -o ") for link in links)


def test_a_linker_for_another_machine_is_refused_before_anything_is_tuned(tmp_path):
    pytest.importorskip("ziglang")
    linker_of_arm = f"{sys.executable} -m ziglang cc -target aarch64-linux-gnu"
    with (
        open_device(f"local?linker={linker_of_arm}") as wrong,
        pytest.raises(linker.LinkError, match=r"does not link libraries for x86_64.*(?s:lib0\.o)"),
    ):
        CompilerSession(wrong, tmp_path / "t", workloads.FEW_TRIALS, num_threads=1, seed=0)
    assert not (tmp_path / "t").exists()


def test_a_linker_that_writes_nothing_is_refused():
    target = tvm.target.Target({"kind": "llvm"})
    with pytest.raises(linker.LinkError, match=r"'true' wrote no library for x86_64"):
        linker.check_linker(target, "true")


def test_a_cross_compiler_links_for_aarch64():
    pytest.importorskip("ziglang")
    target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu"})
    linker.check_linker(target, f"{sys.executable} -m ziglang cc -target aarch64-linux-gnu")


def test_links_kernels_for_aarch64(tmp_path):
    pytest.importorskip("ziglang")
    target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu"})
    built = tvm.compile(workloads.dense_workload(8), target=target)
    path = tmp_path / "arm.so"
    built.export_library(str(path), fcompile=linker.linker_for(target))
    header = path.read_bytes()[:20]
    assert header[:4] == b"\x7fELF" and int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
