"""The documentation is true: its examples run, and what it names exists."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.docs_examples import PAGES, ROOT, python_blocks, read_page, run_page

PACKAGE = ROOT / "cprune_tf"
# Pages whose blocks are parts of a longer program, so that only their imports can be run.
FRAGMENTS = {"README.md", "int8.md", "models.md", "staircases.md"}
# Pages whose blocks the tests of what they are about run.
RUN_ELSEWHERE = {"extending.md", "importer.md", "lowerings.md", "patterns.md", "tasks.md"}
PRUNES = ("own_model.md", "own_training.md", "dense_prediction.md")


def test_every_page_with_code_is_run():
    pages = ["README.md", *sorted(path.name for path in PAGES.glob("*.md"))]
    with_code = {page for page in pages if python_blocks(read_page(page))}
    assert with_code == FRAGMENTS | RUN_ELSEWHERE | {"quickstart.md", *PRUNES}


@pytest.mark.parametrize("page", sorted(FRAGMENTS))
def test_what_a_fragment_imports_is_there(page):
    for block in python_blocks(read_page(page)):
        imports = [n for n in ast.parse(block).body if isinstance(n, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), page, "exec"), {})


def test_the_quickstart_shows_what_can_be_pruned():
    found = run_page("quickstart.md")["found"]
    assert len(found.channels.prunable) == 6


@pytest.mark.slow
@pytest.mark.parametrize("page", PRUNES)
def test_the_examples_that_prune_get_a_smaller_model(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_page(page)
    original = names.get("model") or names["segmenter"]
    assert names["result"].model.count_params() < original.count_params()


def _texts(tree: ast.AST) -> list[str]:
    """All strings of some code, with "…" for what is filled in, and single spaces."""
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    texts = [
        "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        for node in joined
    ]
    texts += [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return [" ".join(text.split()) for text in texts]


@functools.cache
def _all_texts() -> str:
    texts = []
    for path in sorted(PACKAGE.rglob("*.py")):
        texts += _texts(ast.parse(path.read_text(encoding="utf-8")))
    return "\n".join(texts)


MESSAGES = re.findall(r"^### `(.*)`$", read_page("troubleshooting.md"), re.MULTILINE)


def test_troubleshooting_explains_messages():
    assert len(MESSAGES) > 20


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_troubleshooting_explains_is_one_that_the_code_has(message):
    assert message in _all_texts()


def test_the_files_and_names_that_papers_is_about_exist():
    page = read_page("papers.md")
    assert page.count(".py`") > 30
    for name, listed in re.findall(r"`([\w/]+\.py)`(?: \(((?:`\w+`(?:, )?)+)\))?", page):
        path = PACKAGE / name
        assert path.is_file(), name
        code = path.read_text(encoding="utf-8")
        for symbol in re.findall(r"`(\w+)`", listed):
            assert re.search(rf"^\s*(?:def|class) {symbol}\b", code, re.MULTILINE), (name, symbol)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    for package in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'cprune_tf[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def test_the_site_is_whole_and_fetches_nothing(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(list(PAGES.glob("*.md")))
    fetched = r"<(?:script|img|iframe)[^>]+src=\"?https?:|<link[^>]+stylesheet[^>]+https?:"
    for path in pages:
        found = re.search(fetched, path.read_text(encoding="utf-8"))
        assert not found, f"{path.name}: {found.group()}"
    assert (site / "repository" / "benchmarks" / "results" / "prediction.json").is_file()


@pytest.mark.slow
def test_search_works_in_a_browser_without_a_server(site):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("neither chromium nor google-chrome is installed")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [
        "--virtual-time-budget=20000",
        "--dump-dom",
        f"{site.as_uri()}/index.html?q=staircase",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert re.search(r"[1-9]\d* matching documents<", done.stdout)
    assert "CONSOLE" not in done.stderr, done.stderr
