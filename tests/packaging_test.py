"""What is built for PyPI is whole, starts fast, and names the licences of what it ships."""

from __future__ import annotations

import ast
import configparser
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cprune_tf"
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in PACKAGE.rglob("*")
    if path.is_file() and path.suffix != ".pyc"
)
# Measured in the process itself, so that starting Python does not count.
IMPORT = """
import sys, time
start = time.perf_counter()
import cprune_tf
print(time.perf_counter() - start)
print(*sys.modules)
"""


def _python(*arguments: str, cwd: pathlib.Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_importing_takes_less_than_a_third_of_a_second_and_loads_nothing_large():
    results = [_python("-c", IMPORT).splitlines() for _ in range(3)]  # the machine may be busy
    assert min(float(seconds) for seconds, _ in results) < 0.3
    large = {"tensorflow", "keras", "tvm", "numpy", "matplotlib", "ai_edge_litert"}
    assert not large & set(results[0][1].split())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist; the wheel is built from what the sdist holds."""
    folder = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("checkout") / "cprune_tf"
    # Other tools' folders are left out, since setuptools would leave files among them.
    names = ["benchmarks", "configs", "cprune_tf", "docs", "tests", "tools"]
    for name in names:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
    _python("-c", build.format("sdist"), str(folder), cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    _python("-c", build.format("wheel"), str(folder), cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel), unpacked


def test_the_wheel_holds_the_package_and_nothing_else(built):
    wheel, _ = built
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == set(FILES)


def test_the_sdist_holds_what_its_tests_need(built):
    _, unpacked = built
    for name in ("README.md", "CHANGELOG.md", "LICENSES.md", "Makefile", "constraints.txt"):
        assert (unpacked / name).is_file(), name
    for name in ("configs", "tools", "benchmarks", "docs", "tests"):
        here = {p.relative_to(ROOT) for p in (ROOT / name).rglob("*") if p.is_file()}
        there = {p.relative_to(unpacked) for p in (unpacked / name).rglob("*") if p.is_file()}
        assert {p for p in here if "__pycache__" not in p.parts} == there


def test_licences_are_shipped_and_name_all_data(built):
    wheel, _ = built
    licences = [name for name in wheel.namelist() if re.search(r"\.dist-info/.*LICENSE", name)]
    assert len(licences) == 2  # that of the images lies beside them
    page = (ROOT / "LICENSES.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(cprune_tf/[^`]+)`", page, re.MULTILINE)
    assert len(listed) == 4
    data = [name for name in FILES if pathlib.Path(name).suffix not in (".py", "")]
    unlisted = [name for name in data if not any(name.startswith(one) for one in listed)]
    assert unlisted == ["cprune_tf/py.typed"]
    assert all((ROOT / one).exists() for one in listed)


def test_every_command_has_a_console_script_that_exists(built):
    wheel, _ = built
    (path,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(path).decode())
    scripts = dict(parser["console_scripts"])
    assert all(name.startswith("cprune-") for name in scripts)
    targets = {target.split(":")[0] for target in scripts.values()}
    commands = {
        f"cprune_tf.cli.{path.stem}"
        for path in (PACKAGE / "cli").glob("*.py")
        if "run" in {n.name for n in ast.parse(path.read_text()).body if hasattr(n, "name")}
    }
    assert targets == commands
