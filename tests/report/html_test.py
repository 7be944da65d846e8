from __future__ import annotations

import dataclasses
import html.parser
import json
import re

import pytest

from cprune_tf import report as report_lib
from cprune_tf.report import theme
from cprune_tf.runs.events import (
    RUN_EVENTS,
    Accepted,
    Baseline,
    CandidateJudged,
    CountRuledOut,
    RunStarted,
)
from cprune_tf.runs.journal import Journal

from . import patterns_test, sample_run

_VOID = {"meta", "link", "br", "img", "hr", "input"}


class _Page(html.parser.HTMLParser):
    """Collects what the page holds, and checks that its tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self._number: tuple[str, str] | None = None
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "data":
            self._number = (dict(attributes)["data-path"], dict(attributes)["value"])

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text += data
        if self._number:
            self.numbers.append((*self._number, data))
            self._number = None


_VARIANTS = {
    "finished": {},
    "accepted": {"until": "accepted"},
    "baseline": {"until": "baseline"},
    "started": {"until": "run_started"},
    "patterns": {"patterns": patterns_test.EVENT},
    "emulated": {"emulated": True, "problems": ("pruned on tvm: outputs <differ>.",)},
}


@pytest.fixture(scope="module", params=_VARIANTS)
def written(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("run") / request.param
    return report_lib.write_report(sample_run.make_run(root, **_VARIANTS[request.param]))


def _lookup(values, path):
    for step in path.split("."):
        values = values[int(step)] if isinstance(values, list) else values[step]
    return values


def test_every_number_equals_report_json(written):
    values = json.loads(written.json_path.read_text())
    page = _Page(written.html_path.read_text())
    assert page.numbers or not written.report.iterations
    for path, value, shown in page.numbers:
        assert float(value) == _lookup(values, path), path
        assert re.search(r"\d", shown), f"{path} is shown as {shown!r}"


def test_numbers_are_shown_in_their_units(written):
    page = _Page(written.html_path.read_text())
    scales = {"ms": 1.0, "µs": 1e-3}
    latencies = [n for n in page.numbers if n[0].endswith("median_ms")]
    for path, value, shown in latencies:
        number, unit = shown.split("\u00a0")
        assert float(number) * scales[unit] == pytest.approx(float(value), rel=0.006), path
    assert latencies or not written.report.iterations


def test_nothing_is_loaded_from_elsewhere(written):
    text = written.html_path.read_text()
    page = _Page(text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "object", "embed", "img", "image", "base"}
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            target = attributes.get(name) or ""
            assert target.startswith("#") or target in ("", "data:,"), (tag, target)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert not re.search(r"https?://", text)


def test_references_inside_the_page_lead_somewhere(written):
    page = _Page(written.html_path.read_text())
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids)), "ids of different plots must not collide"
    targets = [a.get("href") or a.get("xlink:href") or "" for _, a in page.tags]
    clips = re.findall(r"url\(#([^)]*)\)", written.html_path.read_text())
    references = {t[1:] for t in targets if t.startswith("#")} | set(clips)
    assert references <= set(ids)


def test_plots_follow_the_page_s_colours(written):
    text = written.html_path.read_text()
    assert not re.search(r"#0000[01][0-9a-f]\b", text), "a placeholder colour was left"
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    # The history has a second plot, for narrow windows.
    assert len(plots) == len(written.figure_names) + ("history.png" in written.figure_names)
    for plot in plots:
        assert "var(--plot-" in plot
        assert "DejaVu" not in plot


def test_state_is_said(written):
    page = _Page(written.html_path.read_text())
    assert ("not finished" in page.text) == (not written.report.finished)
    assert written.report.verdict in page.text
    for name in ("emulated device", "(emulated)"):
        assert (name in page.text) == bool(written.report.device.emulated)
    if written.report.device.emulated:
        assert "pruned on tvm: outputs <differ>." in page.text
        assert "speedup" not in {path.split(".")[-1] for path, _, _ in page.numbers}


def test_figures_are_png_files(written):
    folder = written.html_path.parent / "figures"
    assert sorted(p.name for p in folder.iterdir()) == sorted(written.figure_names)
    assert bool(written.figure_names) == (len(written.report.iterations) > 1)
    for name in written.figure_names:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_plots_of_an_earlier_report_are_removed(tmp_path):
    root = sample_run.make_run(tmp_path / "run", until="baseline")
    (root / "figures" / "history.png").write_bytes(b"old")
    assert report_lib.write_report(root).figure_names == ()
    assert not (root / "figures" / "history.png").exists()


def test_text_from_the_run_is_escaped(tmp_path):
    attack = "<script>alert(1)</script>"
    device = dataclasses.replace(sample_run.device(), cpu_name=attack, abi=attack)
    model = sample_run.model_fields(0, 1.0, 0.9)
    task = dataclasses.replace(model["tasks"][0], name=attack, program=attack)
    model |= {"channels": {attack: 4}, "tasks": (task,)}
    candidate = CandidateJudged(
        index=0, iteration=0, key=attack, task=attack, layers=(attack,), removed={attack: 1},
        step=1, price_ms=None, current_latency_ms=1.0, measured=None, accuracy=None,
        current_accuracy=0.9, decision=attack, reason=attack, elapsed_sec=1.0, accepted=None,
    )  # fmt: skip
    with Journal(tmp_path / "journal.jsonl", RUN_EVENTS) as journal:
        journal.append(RunStarted("0.1.0", "abc", attack, device, False))
        journal.append(Baseline(**model))
        journal.append(CountRuledOut(attack, 1, 1.01, attack))
        journal.append(candidate)
        journal.append(Accepted(**{**model, "iteration": 1, "channels": {attack: 2}}))
    text = report_lib.write_report(tmp_path).html_path.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_decisions_tell_the_ratio_first(tmp_path):
    root = sample_run.make_run(tmp_path / "run")
    page = _Page(report_lib.write_report(root).html_path.read_text())
    text = " ".join(page.text.replace("\u00a0", " ").split())
    assert "0.886x of the current latency0.240 ms against 0.271 ms" in text
    assert "3 channel counts ruled out by their price" in text
    assert "stem_conv1, 2, 30.997x of the current latency1.021x of the current latency" in text


def test_themed_svg_needs_a_view_box():
    with pytest.raises(ValueError, match="viewBox"):
        theme.themed_svg("<svg></svg>", "t", "p")
