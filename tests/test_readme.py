"""What the documents say is true: the README's session runs, links lead somewhere, tests and limits
that are named exist."""

from __future__ import annotations

import ast
import doctest
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sofs
import sofs.testing
from sofs import constants

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=lambda page: page.as_posix()
)
UNITS = {
    "": 1,
    "bytes": 1,
    "KiB": constants.KIB,
    "MiB": constants.MIB,
    "ms": 1,
    "s": 1000,
    "h": 3_600_000,
}
COLUMNS_MAX = 100


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def outside_code(page: Path) -> str:
    """The text of a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> Iterator[str]:
    """The relative targets of a page's links, in both of Markdown's spellings."""
    text = outside_code(page)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    found += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, flags=re.MULTILINE)
    for target in found:
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """What a link may name behind ``#``, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


# The session
# ---------------------------------------------------------------------------------------


@pytest.fixture
def clusters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[list[sofs.testing.LocalCluster]]:
    """Remembers the clusters and the kills of a session; ends and removes all of it."""
    made: list[sofs.testing.LocalCluster] = []
    start = sofs.testing.LocalCluster.start

    def remember(cluster: sofs.testing.LocalCluster) -> None:
        made.append(cluster)
        start(cluster)

    monkeypatch.setattr(sofs.testing.LocalCluster, "start", remember)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield made
    for cluster in made:
        cluster.close()


def test_the_session_of_the_readme_shows_what_it_says(
    clusters: list[sofs.testing.LocalCluster],
) -> None:
    found = re.search(r"```python\n(>>> .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, "the README begins with a session"
    lines = [line for line in found[1].splitlines() if line.startswith(">>> ")]
    assert len(lines) == 6
    kills = [i for i, line in enumerate(lines) if "cluster.kill(" in line]
    assert kills
    assert "write" in lines[kills[0] - 1], "the node dies between two writes"
    assert "write" in lines[kills[0] + 1], "the node dies between two writes"
    session = doctest.DocTestParser().get_doctest(found[1], {}, "README", "README.md", 0)
    said: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(session, out=said.append, clear_globs=False)
    try:
        [cluster] = clusters
        assert outcome.failed == 0, "".join(said) + cluster.last_words()
        assert session.globs["share"].failovers(), "the node in use was the one killed"
    finally:
        if "share" in session.globs:
            session.globs["share"].close()


# The pages
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_a_heading_of_it(page: Path) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_reference_of_a_link_is_defined_and_used(page: Path) -> None:
    text = outside_code(page)
    defined = set(re.findall(r"^\[([^\]]+)\]:", text, flags=re.MULTILINE))
    used = set(re.findall(r"\]\[([^\]]+)\]", text))
    assert used == defined


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_fit_their_columns(page: Path) -> None:
    text = page.read_text()
    assert [line for line in text.splitlines() if len(line) > COLUMNS_MAX] == []


def test_every_part_of_the_code_that_is_named_by_path_exists() -> None:
    named = {
        (name_of(page), path)
        for page in PAGES
        for path in re.findall(r"`((?:sofs|tests|protos|docs)/[\w./-]+)`", outside_code(page))
    }
    assert not [place for place in sorted(named) if not (ROOT / place[1]).exists()]


# FAULTS.md
# -----------------------------------------------------------------------------------------


@functools.cache
def functions_of(path: Path) -> frozenset[str]:
    """The names of the test functions of a file."""
    return frozenset(
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_test_that_a_page_names_exists() -> None:
    everywhere = {
        name: path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in functions_of(path)
    }
    wrong = []
    for page in PAGES:
        file = ""
        for line in outside_code(page).splitlines():
            heading = re.fullmatch(r"`(tests/[\w/]+\.py)`", line)
            if heading:
                file = heading[1]
            elif line.startswith("#"):
                file = ""
            for name in re.findall(r"`(test_\w+)`", line):
                known = name in functions_of(ROOT / file) if file else name in everywhere
                if not known:
                    wrong.append(f"{name_of(page)}: {file} {name}")
    assert not wrong


def test_every_mark_of_a_fault_names_a_test_and_every_test_has_its_fault() -> None:
    text = (ROOT / "docs" / "FAULTS.md").read_text()
    defined = re.findall(r"^- ([A-Z]\d+) `test_\w+`$", text, flags=re.MULTILINE)
    used = [mark for row in rows(text) for mark in re.findall(r"\b[A-Z]\d+\b", row[-1])]
    assert len(defined) == len(set(defined))
    assert set(used) == set(defined)
    faults = [row for row in rows(text) if len(row) == 3 and row[0] and not row[0].startswith("-")]
    assert all(row[2] for row in faults), "a fault without a test is a wish"


# The README's tables
# -------------------------------------------------------------------------------


def test_the_limits_of_the_readme_are_those_of_the_constants() -> None:
    wrong = []
    found = 0
    for row in rows((ROOT / "README.md").read_text()):
        constant = re.fullmatch(r"`([A-Z_]+)`", row[-1])
        if len(row) == 3 and constant:
            found += 1
            number, _, unit = row[1].partition(" ")
            value = int(number.replace(",", "")) * UNITS[unit]
            if value != getattr(constants, constant[1]):
                wrong.append(row)
    assert not wrong
    assert found > 10


def test_the_calls_that_the_readme_shows_exist() -> None:
    text = (ROOT / "README.md").read_text()
    calls = re.findall(r"`(share|file)\.(\w+)", text)
    homes = {"share": sofs.Share, "file": sofs.File}
    assert not [call for call in calls if not hasattr(homes[call[0]], call[1])]
    assert len(calls) > 20
    errors = re.findall(r"`(\w+)` \(", text)
    assert errors
    assert all(hasattr(sofs, error) for error in errors)
