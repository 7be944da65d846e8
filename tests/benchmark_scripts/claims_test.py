"""What README and docs claim is what the committed results say."""

from __future__ import annotations

import copy
import json
import re

import pytest

from benchmarks import claims, graph_page

CLAIMS = claims.read_claims()


def test_the_pages_say_what_the_results_say():
    changed = claims.changed_pages(CLAIMS)
    assert not changed, f"{list(changed)}: run python benchmarks/claims.py --write"


def test_every_result_is_claimed_or_listed():
    assert claims.unused_results(CLAIMS) == []


def test_every_script_and_page_exists():
    entries = [entry for kind in CLAIMS.values() for entry in kind]
    for key in ("script", "page"):
        missing = [e[key] for e in entries if key in e and not (claims.ROOT / e[key]).is_file()]
        assert not missing


def test_a_page_that_a_script_writes_names_the_script():
    for entry in CLAIMS["page"]:
        text = (claims.ROOT / entry["page"]).read_text(encoding="utf-8")
        assert entry["script"] in text.split("##")[0], entry["page"]


def test_the_page_about_keras_applications_is_that_of_its_result():
    page = (claims.ROOT / "docs" / "applications.md").read_text(encoding="utf-8")
    assert page == graph_page.page(claims.read_result("graph.json")), (
        "run python benchmarks/graph.py --tables_only"
    )


def test_figures_without_a_result_are_still_on_their_page():
    for entry in CLAIMS["unbacked"]:
        text = (claims.ROOT / entry["page"]).read_text(encoding="utf-8")
        assert " ".join(entry["text"].split()) in " ".join(text.split()), entry


@pytest.mark.parametrize(
    ("kind", "key", "received", "says"),
    [
        ("row", "result", "lost.json", "there is no result lost.json"),
        ("quote", "text", "never said: {tvm}", "0 sentences read 'never said: {tvm}'"),
    ],
)
def test_a_claim_about_nothing_is_refused(kind, key, received, says):
    wrong = copy.deepcopy(CLAIMS)
    wrong[kind][0][key] = received
    with pytest.raises(claims.ClaimError, match=re.escape(says)):
        claims.changed_pages(wrong)


@pytest.mark.parametrize("kind", ["row", "quote"])
def test_another_figure_changes_the_page(kind):
    wrong = copy.deepcopy(CLAIMS)
    (name, *_) = wrong[kind][0]["values"]
    wrong[kind][0]["values"][name]["digits"] = 7
    (text,) = claims.changed_pages(wrong).values()
    result = claims.read_result(wrong[kind][0]["result"])
    assert claims.figures(wrong[kind][0])[name].text(result) in text


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (["models", {"model": "resnet"}], "0 entries have {'model': 'resnet'}"),
        (["models", {}], "5 entries have {}"),
        (["speed"], "there is no 'speed'"),
        (["models", 7], "there is no 7"),
    ],
)
def test_a_field_that_is_not_there_is_refused(path, says):
    with pytest.raises(claims.ClaimError, match=re.escape(says)):
        claims.find(claims.read_result("tuned_vs_litert.json"), path)


def test_a_rerun_confirms_what_is_within_the_tolerance(tmp_path, capsys):
    result = claims.read_result("transfer.json")
    (tmp_path / "transfer.json").write_text(json.dumps(result))
    assert claims.confirm(CLAIMS, tmp_path)
    assert "confirmed  transfer.json median: 0.84 s claimed" in capsys.readouterr().out
    result["summary"]["median_price_sec"] *= 1.6
    (tmp_path / "transfer.json").write_text(json.dumps(result))
    assert not claims.confirm(CLAIMS, tmp_path)
    assert "DIFFERS    transfer.json median: 0.84 s claimed, 1.35 s" in capsys.readouterr().out


def test_a_folder_without_results_confirms_nothing(tmp_path):
    with pytest.raises(claims.ClaimError, match="none of the claims' results"):
        claims.confirm(CLAIMS, tmp_path)
