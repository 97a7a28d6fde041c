"""What the demo says is true: losses and errors end it with status 1, and are put to their
fault."""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from sofs.demo import main as entry
from sofs.demo.activity import Activity, Seen
from sofs.demo.bank import ACCOUNTS, OPENING_CENTS, Acknowledged, BankReport, _find_wrong
from sofs.demo.faults import Baseline, Fault
from sofs.demo.meter import Meter, Timed
from sofs.demo.report import WIDTH, Narrator, Outcome, TreeReport, print_outcome, write_json
from sofs.demo.tree import Tree
from sofs.errors import Unavailable


def good_bank() -> BankReport:
    return BankReport("ok", ACCOUNTS * OPENING_CENTS, ACCOUNTS, 3, 3, [], [])


def outcome_of(**changes: object) -> Outcome:
    outcome = Outcome(
        "plain processes",
        baseline=Baseline(3.0, 0.1, "stat"),
        faults=[
            Fault("SIGKILL", "serving node", "node-1", 5, 0.25, "pwrite", began=10.0, ended=11.0),
            Fault("SIGSTOP", "serving node", "node-2", 4, 0.9, "pread", began=20.0, ended=22.0),
        ],
        bank=good_bank(),
        tree=TreeReport(files=10, copied=10, copied_bytes=1000, compared=10),
    )
    for name, value in changes.items():
        setattr(outcome, name, value)
    outcome.judge()
    return outcome


def test_a_run_without_errors_and_losses_kept_its_promises() -> None:
    assert outcome_of().kept


def test_an_error_is_put_to_the_fault_that_it_followed() -> None:
    outcome = outcome_of(errors=[Seen(21.0, "teller-1", "Expired: too late")])
    assert [fault.errors for fault in outcome.faults] == [0, 1]
    assert not outcome.kept


def test_a_lost_file_is_put_to_the_fault_after_which_it_was_acknowledged() -> None:
    tree = TreeReport(10, 10, 1000, 10, [Acknowledged("/stdlib/os.py", 15.0)])
    outcome = outcome_of(tree=tree)
    assert [fault.lost for fault in outcome.faults] == [1, 0]
    assert not outcome.kept


def test_a_run_that_could_not_begin_says_so_with_status_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise Unavailable("Ray did not start; look at its log")

    monkeypatch.setattr("sofs.demo.run.make_cluster", refuse)
    assert entry(["--no-ray"]) == 3
    assert "look at its log" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "lines", "word"),
    [
        ({"1": "a", "2": "b"}, ["1", "2"], ""),
        ({"1": "a", "3": "b"}, ["1", "3"], "gaps"),
        ({"1": "a", "2": "b"}, ["1", "2", "2"], "more than once"),
        ({"1": "a", "2": "b"}, ["1"], "no line"),
        ({"1": "a"}, ["1", "2"], "not in the database"),
    ],
)
def test_bank_and_audit_must_agree_number_by_number(
    rows: dict[str, str], lines: list[str], word: str
) -> None:
    report = good_bank()
    _find_wrong(report, rows, Counter(lines))
    assert bool(report.wrong) == bool(word)
    assert word in " ".join(report.wrong)


def test_a_missing_cent_is_found() -> None:
    report = good_bank()
    report.cents -= 1
    _find_wrong(report, {}, Counter())
    assert "cents" in report.wrong[0]


def test_the_table_fits_into_a_hundred_columns() -> None:
    stream = io.StringIO()
    outcome = outcome_of(roles_missing=["leader"], not_reached=["SIGKILL witness"])
    print_outcome(outcome, Narrator(stream))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert any("SIGKILL serving node (node-1)" in line and "250 ms" in line for line in lines)


def test_json_has_the_facts_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(outcome_of(), str(path))
    facts = json.loads(path.read_text())
    assert facts["kept"] is True
    assert facts["faults"][0]["longest_pause_ms"] == 250
    assert facts["bank"]["cents"] == facts["bank"]["cents_wanted"]


def test_the_meter_counts_calls_that_have_not_returned_and_keeps_the_longest() -> None:
    go, inside = threading.Event(), threading.Event()

    class Slow:
        closed = False

        def read(self) -> str:
            inside.set()
            go.wait(10)
            return "data"

        def open(self) -> Slow:
            return self

    meter = Meter()
    timed = Timed(Slow(), meter).open()
    assert timed.closed is False
    thread = threading.Thread(target=timed.read)
    thread.start()
    inside.wait(10)
    assert meter.in_flight() == 1
    assert meter.longest()[1] == "read"
    go.set()
    thread.join()
    assert meter.in_flight() == 0
    assert meter.operations == 2  # open and read
    meter.forget_longest()
    assert meter.longest() == (0.0, "")


def test_waiting_for_a_lock_is_in_flight_but_no_pause() -> None:
    class Lockable:
        def lock_ranges(self, *, wait_ms: int = 0) -> None:
            return None

    meter = Meter()
    Timed(Lockable(), meter).lock_ranges(wait_ms=5)
    assert meter.operations == 1
    assert meter.longest() == (0.0, "")
    Timed(Lockable(), meter).lock_ranges()
    assert meter.longest()[1] == "lock_ranges"


def test_an_activity_that_raises_stops_and_keeps_the_error() -> None:
    class Failing(Activity):
        def step(self) -> bool:
            raise ValueError("broken")

    activity = Failing("worker")
    activity.start()
    activity.join(10)
    assert [seen.who for seen in activity.errors] == ["worker"]
    assert "broken" in activity.errors[0].text


def test_the_tree_is_handed_out_once_and_tests_come_last(tmp_path: Path) -> None:
    for name in ("a.py", "test/t.py", "pkg/b.py", "pkg/__pycache__/b.pyc", "site-packages/x.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    tree = Tree(tmp_path)
    taken = []
    while (entry := tree.take()) is not None:
        taken.append(entry.target)
    assert taken == ["/stdlib/a.py", "/stdlib/pkg/b.py", "/stdlib/test/t.py"]
    assert tree.directories == ["/stdlib", "/stdlib/pkg", "/stdlib/test"]


def test_wrong_arguments_end_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        entry(["--no-such-thing"])
    assert ended.value.code == 2
    assert "--no-such-thing" in capsys.readouterr().err
