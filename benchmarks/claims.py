r"""Writes the figures of README and docs from the committed results, as claims.toml says.

    python benchmarks/claims.py                  # check: exit code 1 where a page says otherwise
    python benchmarks/claims.py --write          # write the pages' tables and figures
    python benchmarks/claims.py --rerun=FOLDER   # do other results of the scripts confirm them?

Scripts replace their result in results/. To confirm a claim, copy what a script wrote to FOLDER,
and `git checkout benchmarks/results` brings the committed result back.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import app, flags

try:
    import claim_tables
except ImportError:  # of a test, for which this folder is a package
    from benchmarks import claim_tables

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_WRITE = flags.DEFINE_bool("write", False, "Write the pages instead of checking them.")
_RERUN = flags.DEFINE_string("rerun", None, "A folder of results to confirm the claims with.")

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLAIMS = ROOT / "benchmarks" / "claims.toml"
RESULTS = ROOT / "benchmarks" / "results"
_TABLES_PAGE = "README.md"
_HEADS = {"measured": "| what | result | script, result |\n|---|---|---|"}
# Unit -> how a value of the result is converted, and what follows the number.
_UNITS: dict[str, tuple[Callable[[float], float], str]] = {
    "": (lambda value: value, ""),
    "s": (lambda value: value, " s"),
    "x": (lambda value: value, "x"),
    "×": (lambda value: value, "×"),
    "%": (lambda value: 100 * value, " %"),
    "% more": (lambda value: 100 * (value - 1), " %"),
    "kB": (lambda value: value / 1e3, " kB"),
    "GiB": (lambda value: value / 2**30, " GiB"),
}
_FIGURE = r"((?<![\w.])[\d.,]*\d(?:[x×]|\s+(?:s|%|kB|GiB)(?!\w))?)"


class ClaimError(ValueError):
    """A claim that names what does not exist."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number of a claim.

    Attributes:
        field: The path in the result: keys, indices, and the items of the one entry that is meant.
        digits: Decimals.
        tolerance: How far a rerun may differ, relative to the committed number.
        unit: A key of the units.
        over: The path of what the number is divided by; none if empty.
    """

    field: Sequence[Any]
    digits: int
    tolerance: float
    unit: str = ""
    over: Sequence[Any] = ()

    def read(self, result: Any) -> float:
        """Returns the number, in the result's own unit."""
        value = find(result, self.field)
        return float(value / find(result, self.over) if self.over else value)

    def text(self, result: Any) -> str:
        """Returns the number as the pages write it."""
        convert, suffix = _UNITS[self.unit]
        return f"{convert(self.read(result)):,.{self.digits}f}{suffix}"

    def confirmed(self, committed: Any, rerun: Any) -> bool:
        """Returns whether another run's number is within the tolerance."""
        expected = self.read(committed)
        return abs(self.read(rerun) - expected) <= self.tolerance * abs(expected)


def find(result: Any, path: Sequence[Any]) -> Any:
    """Returns what a path leads to in a result.

    Args:
        result: JSON types.
        path: Keys and indices; a mapping stands for the one entry of a list that has its items.

    Returns:
        What is there.

    Raises:
        ClaimError: If the path leads nowhere, or several entries have the items.
    """
    value = result
    for step in path:
        if isinstance(step, Mapping):
            entries = [entry for entry in value if step.items() <= entry.items()]
            if len(entries) != 1:
                raise ClaimError(f"{path}: {len(entries)} entries have {step}; expected one")
            (value,) = entries
            continue
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError) as error:
            raise ClaimError(f"{path}: there is no {step!r}") from error
    return value


def read_claims(path: pathlib.Path = CLAIMS) -> dict[str, list[dict[str, Any]]]:
    """Returns the entries of claims.toml by kind."""
    claims: dict[str, list[dict[str, Any]]] = tomllib.loads(path.read_text(encoding="utf-8"))
    return claims


def read_result(name: str, folder: pathlib.Path = RESULTS) -> Any:
    """Returns a result's content."""
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ClaimError(f"there is no result {name} in {folder.name}/") from error


def figures(entry: Mapping[str, Any]) -> dict[str, Figure]:
    """Returns the figures of a row or quote by name."""
    return {name: Figure(**fields) for name, fields in entry["values"].items()}


def expected_pages(claims: Mapping[str, Any]) -> dict[str, str]:
    """Returns the pages as the results say that they should be.

    Args:
        claims: The entries of claims.toml.

    Returns:
        Path, relative to the repository, -> text.

    Raises:
        ClaimError: If a claim names what a page or a result does not have.
    """
    pages: dict[str, str] = {}

    def change(page: str, function: Callable[[str], str]) -> None:
        text = pages.get(page) or (ROOT / page).read_text(encoding="utf-8")
        try:
            pages[page] = function(text)
        except ClaimError as error:
            raise ClaimError(f"{page}: {error}") from error

    for name, head in _HEADS.items():
        rows = [row for row in claims["row"] if row["table"] == name]
        table = "\n".join([head, *_rows(rows)])
        change(_TABLES_PAGE, lambda text, name=name, table=table: _between(text, name, table))
    for entry in claims["table"]:
        table = getattr(claim_tables, entry["name"])(read_result(entry["result"]))
        change(
            entry["page"],
            lambda text, name=entry["name"], table=table: _between(text, name, table),
        )
    for entry in claims["quote"]:
        change(entry["page"], lambda text, entry=entry: _requoted(text, entry))
    return pages


def changed_pages(claims: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the pages that say something else than the results should be."""
    return {
        page: text
        for page, text in expected_pages(claims).items()
        if text != (ROOT / page).read_text(encoding="utf-8")
    }


def _rows(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    before = ("", "")
    for entry in entries:
        result = read_result(entry["result"])
        values = {name: figure.text(result) for name, figure in figures(entry).items()}
        what = entry["what"].format(date=result["date"], **values)
        source = f"[{entry['result']}](benchmarks/results/{entry['result']})"
        if before[0] != entry["script"]:
            source = f"`{entry['script']}`, {source}"
        elif before[1] == entry["result"]:
            source = "same"
        before = (entry["script"], entry["result"])
        yield f"| {what} | {entry['text'].format(**values)} | {source} |"


def _between(text: str, name: str, table: str) -> str:
    start, end = f"<!-- claims:{name} -->", f"<!-- /claims:{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ClaimError(f"expected the markers {start} and {end}, once each")
    head, rest = text.split(start)
    return f"{head}{start}\n{table}\n{end}{rest.split(end)[1]}"


def _requoted(text: str, entry: Mapping[str, Any]) -> str:
    """Returns the page's text with a sentence's figures as the result has them."""
    result = read_result(entry["result"])
    pieces = re.split(r"\{(\w+)\}", entry["text"])
    pattern = "".join(
        _FIGURE if index % 2 else f"({_any_spaces(piece)})" for index, piece in enumerate(pieces)
    )
    found = re.findall(pattern, text)
    if len(found) != 1:
        raise ClaimError(f"{len(found)} sentences read {entry['text']!r}; expected one")
    values = {name: figure.text(result) for name, figure in figures(entry).items()}
    parts = [
        part if not index % 2 or _one_line(part) == values[pieces[index]] else values[pieces[index]]
        for index, part in enumerate(found[0])
    ]
    return text.replace("".join(found[0]), "".join(parts))


def _any_spaces(piece: str) -> str:
    return r"\s+".join(re.escape(word) for word in re.split(r"\s+", piece))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def unused_results(claims: Mapping[str, Any]) -> list[str]:
    """Returns the names of the results that no claim, page or table uses."""
    entries = [entry for kind in claims.values() for entry in kind]
    used = {entry["result"] for entry in entries if "result" in entry}
    return sorted({path.name for path in RESULTS.glob("*.json")} - used)


def confirm(claims: Mapping[str, Any], folder: pathlib.Path) -> bool:
    """Prints which claims the results in a folder confirm; returns whether all do."""
    entries = [*claims["row"], *claims["quote"]]
    entries = [entry for entry in entries if (folder / entry["result"]).exists()]
    if not entries:
        raise ClaimError(f"{folder} has none of the claims' results (such as transfer.json)")
    all_confirmed = True
    for entry in entries:
        committed, rerun = (read_result(entry["result"], at) for at in (RESULTS, folder))
        for name, figure in figures(entry).items():
            holds = figure.confirmed(committed, rerun)
            all_confirmed &= holds
            print(
                f"{'confirmed' if holds else 'DIFFERS  '}  {entry['result']} {name}: "
                f"{figure.text(committed)} claimed, {figure.text(rerun)} there "
                f"(within {figure.tolerance:.0%})"
            )
    return all_confirmed


def main(argv: Sequence[str]) -> None:
    """Checks or writes the pages, or confirms their figures with other results."""
    del argv
    claims = read_claims()
    try:
        if _RERUN.value is not None:
            sys.exit(0 if confirm(claims, pathlib.Path(_RERUN.value)) else 1)
        changed = changed_pages(claims)
    except ClaimError as error:
        sys.exit(str(error))
    if _WRITE.value:
        for page, text in changed.items():
            (ROOT / page).write_text(text, encoding="utf-8")
        print(f"written: {', '.join(changed) or 'nothing, since nothing had changed'}")
    elif changed:
        sys.exit(f"{', '.join(changed)}: not as the results say; run benchmarks/claims.py --write")


if __name__ == "__main__":
    app.run(main)
