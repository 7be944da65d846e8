"""The directions that docs/architecture.md states hold in the code, import by import."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "cprune_tf"
PAGE = ROOT / "docs" / "architecture.md"
# A device has nothing but these beside the standard library.
ON_A_DEVICE = {
    "numpy",
    "tvm",
    "tvm_ffi",
    "psutil",
    "ai_edge_litert",
    "tflite_runtime",
    "tensorflow",
}


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of every module that runs when some code does, at its top or later."""
    tree = ast.parse(text)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else node.module


def floors() -> dict[str, int]:
    """The page's floors: module prefix -> height; what stands on one line is on one floor."""
    block = re.search(r"```floors\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block, "docs/architecture.md lists no floors"
    lines = [line.split("#")[0].split() for line in block.group(1).splitlines()]
    return {
        f"cprune_tf.{name}": height
        for height, names in enumerate(reversed([names for names in lines if names]))
        for name in names
    }


def floor_of(module: str, heights: dict[str, int]) -> str | None:
    """The most specific prefix that a module belongs to."""
    prefixes = [name for name in heights if module == name or module.startswith(f"{name}.")]
    return max(prefixes, key=len, default=None)


def wrong_imports(module: str, text: str, heights: dict[str, int]) -> list[str]:
    """Imports of one module that go up, or sideways to another part of the same floor."""
    own = floor_of(module, heights)
    wrong = []
    for line, imported in imported_modules(text):
        other = floor_of(imported, heights)
        if own is None or other is None or other == own:
            continue
        if heights[other] >= heights[own]:
            wrong.append(f"{module}:{line} ({own}) imports {imported} ({other})")
    return wrong


def test_every_module_stands_on_a_floor_of_the_page():
    heights = floors()
    homeless = [name for name in MODULES if floor_of(name, heights) is None]
    assert homeless == ["cprune_tf"]
    empty = [name for name in heights if not any(floor_of(m, heights) == name for m in MODULES)]
    assert not empty, f"the page names what does not exist: {empty}"


def test_imports_only_go_down():
    heights = floors()
    wrong = [
        text
        for name, path in MODULES.items()
        for text in wrong_imports(name, path.read_text(encoding="utf-8"), heights)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("cprune_tf.graph.flat", "import cprune_tf.compiler.tasks"),
        ("cprune_tf.compiler.tasks", "def f():\n    from cprune_tf.training import fit"),
        ("cprune_tf.devices.agent.wire", "from cprune_tf.devices import base"),
        ("cprune_tf.latency.lab", "from cprune_tf import strategies, pipeline"),
        ("cprune_tf.strategies.cprune", "from cprune_tf.cli import prune"),
        ("cprune_tf.data.arrays", "from cprune_tf.models import loader"),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_noticed(module, text):
    assert wrong_imports(module, text, floors())


def test_what_is_imported_for_types_alone_may_go_anywhere():
    text = "import typing\nif typing.TYPE_CHECKING:\n    from cprune_tf.cli import prune\n"
    assert not wrong_imports("cprune_tf.graph.flat", text, floors())


def foreign_packages(text: str) -> set[str]:
    import sys

    names = {name.split(".")[0] for _, name in imported_modules(text)}
    return names - set(sys.stdlib_module_names) - {"cprune_tf", "__future__"}


def test_what_runs_on_a_device_needs_what_is_on_a_device():
    for path in (PACKAGE / "devices" / "agent").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        foreign = foreign_packages(text) - ON_A_DEVICE
        assert not foreign, f"{path.name} imports {foreign}"
        own = {name for _, name in imported_modules(text) if name.startswith("cprune_tf")}
        outside = {name for name in own if not name.startswith("cprune_tf.devices.agent")}
        assert not outside, f"{path.name} imports {outside}, which the bundle does not hold"


def test_the_channel_graph_knows_no_compiler():
    for folder in ("graph", "importance"):
        for path in (PACKAGE / folder).rglob("*.py"):
            assert "tvm" not in foreign_packages(path.read_text(encoding="utf-8")), path


def test_litert_needs_no_compiler():
    for folder in (PACKAGE / "litert", PACKAGE / "runtimes" / "litert"):
        assert list(folder.glob("*.py"))
        for path in folder.glob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "tvm" not in foreign_packages(text), path
            own = {name for _, name in imported_modules(text)}
            assert not {name for name in own if name.startswith("cprune_tf.compiler")}, path


# Names with an underscore that Python itself offers.
PYTHONS_OWN = {"os._exit"}


def private_names(text: str) -> list[str]:
    """Private attributes and modules of others that some code uses."""
    tree = ast.parse(text)
    # What a class calls its own, it may also read from its other instances.
    own = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    }
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found = [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.match(r"_[^_]", node.attr)
        and node.attr not in own
        and ast.unparse(node) not in PYTHONS_OWN
    ]
    for line, name in imported_modules(text):
        parts = name.split(".")
        if parts[:2] == ["keras", "src"] or any(re.match(r"_[^_]", part) for part in parts):
            found.append(f"{line}: {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [
                f"{node.lineno}: {node.module}.{alias.name}"
                for alias in node.names
                if re.match(r"_[^_]", alias.name)
            ]
    return found


@pytest.mark.parametrize(
    "text",
    ["model._nodes_by_depth", "from keras.src import ops", "from tvm.s_tir import _ffi_api"],
)
def test_a_private_name_is_noticed(text):
    assert private_names(text)


def test_private_names_of_keras_and_tvm_are_used_in_one_module_each():
    allowed = {"cprune_tf.graph.keras_internals", "cprune_tf.compiler.tvm_internals"}
    used = {
        name: private
        for name, path in MODULES.items()
        if name not in allowed and (private := private_names(path.read_text(encoding="utf-8")))
    }
    assert not used


def test_scripts_use_no_private_names():
    for folder in ("benchmarks", "configs", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not private_names(path.read_text(encoding="utf-8")), path
