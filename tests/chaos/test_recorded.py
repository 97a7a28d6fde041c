"""The judgement of a chaos run can fail: a real run's history is refused once it is doctored."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

import sofs
from sofs.sim.checkers.linear import check_linearizable
from sofs.sim.history import History, Operation
from sofs.testing import LocalCluster

from .recorded import PAGE, REGISTER_BYTES, new_history, violations
from .runner import Runner
from .workloads import Appender, Counter, Registers, Worker, shared_files

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

OPERATIONS_MIN = 400


@dataclass
class Run:
    """A recorded run, what was stored in the end, and before."""

    lines: list[str]
    finals: dict[str, bytes]
    before: dict[str, bytes]
    totals: dict[str, int]

    def history(self) -> History:
        return History.load(self.lines)

    def judge(self, history: History) -> list[str]:
        found = violations(history, self.finals, self.before, self.totals)
        return [str(each) for each in found]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two workers of each kind on different nodes; one node is killed meanwhile."""
    history = new_history()
    with LocalCluster(tmp_path_factory.mktemp("recorded") / "root") as cluster:

        def connect_at(node: int) -> Callable[[], sofs.Share]:
            url = cluster.url_from(f"node-{node}")
            return lambda: sofs.connect(url, credential=cluster.credential)

        workers: list[Worker] = [
            kind(f"{kind.__name__.lower()}-{n}", connect_at(n), 1, history)
            for kind in (Registers, Appender, Counter)
            for n in (1, 2)
        ]
        for worker in workers:
            worker.start()
        runner = Runner(cluster, workers, 1)
        try:
            while not runner.rounds:
                runner.one("kill", "node-1")
            end = time.monotonic() + 60
            while len(history.operations) < OPERATIONS_MIN and time.monotonic() < end:
                time.sleep(0.01)
        finally:
            for worker in workers:
                worker.finish()
        assert not runner.errors()
        with sofs.connect(cluster.url, credential=cluster.credential) as share:
            return Run(list(history.dump()), *shared_files(workers, share))


def register_writes(history: History) -> list[tuple[Operation, Operation]]:
    """Pairs of writes to one register, of which the second began when the first was over."""
    last: dict[int, Operation] = {}
    pairs: list[tuple[Operation, Operation]] = []
    for write in history.of("write"):
        offset = write.arguments[0]
        older = last.get(offset)
        if older is not None and older.end < write.called:
            pairs.append((older, write))
        last[offset] = write
    return pairs


def test_the_run_itself_holds(run: Run) -> None:
    history = run.history()
    clients = {o.client for o in history.of("write", "read")}
    assert len(clients) == 2
    assert any("kill" in note.text for note in history.notes)
    assert run.judge(history) == []


def test_a_stale_read_is_refused(run: Run) -> None:
    history = run.history()
    for older, newer in register_writes(history):
        for read in history.of("read"):
            if read.arguments[0] == older.arguments[0] and read.called > newer.end:
                read.result = older.arguments[1]
                assert any("linearizable data" in text for text in run.judge(history))
                return
    raise AssertionError("the run read nothing that was written twice")


def test_a_write_that_was_acknowledged_and_is_not_in_the_file_is_refused(run: Run) -> None:
    history = run.history()
    write = history.of("write")[-1]
    offset = write.arguments[0]
    final = bytearray(run.finals[write.key])
    final[offset : offset + REGISTER_BYTES] = bytes(REGISTER_BYTES)
    doctored = Run(run.lines, run.finals | {write.key: bytes(final)}, run.before, run.totals)
    assert len(final) % PAGE == 0
    assert any(text.startswith("contents") for text in doctored.judge(history))


def test_a_write_that_nobody_made_is_refused_where_it_was_read(run: Run) -> None:
    """As if the write had been acknowledged to nobody, and yet be there."""
    history = run.history()
    seen = {read.result for read in history.of("read")}
    write = next(o for o in history.of("write") if o.arguments[1] in seen)
    history.operations.remove(write)
    assert any("linearizable data" in text for text in run.judge(history))


def test_an_append_that_is_lost_or_doubled_is_refused(run: Run) -> None:
    append = run.history().of("append")[-1]
    final = run.finals[append.key]
    line = append.arguments[0]
    assert line in final
    for other in (final.replace(line, b""), final + line):
        doctored = Run(run.lines, run.finals | {append.key: other}, run.before, run.totals)
        assert any(text.startswith("appends") for text in doctored.judge(run.history()))


def test_a_lock_of_two_holders_is_refused(run: Run) -> None:
    history = run.history()
    locks = sorted(history.of("lock"), key=lambda o: o.end)
    one, two = next(
        (a, b) for a, b in itertools.pairwise(locks) if a.client != b.client and not b.maybe
    )
    unlock = next(o for o in history.of("unlock") if o.client == one.client and o.called > one.end)
    assert two.returned is not None
    unlock.called, unlock.returned = two.returned + 1, two.returned + 1
    assert any("lock" in text for text in run.judge(history))


def test_an_increment_that_is_counted_twice_or_lost_is_refused(run: Run) -> None:
    history = run.history()
    adds = history.of("add")
    adds[-1].result = adds[0].result
    assert any("counter" in text for text in run.judge(history))
    key = adds[-1].key
    for other in (run.totals[key] - 1, run.totals[key] + 1):
        doctored = Run(run.lines, run.finals, run.before, {key: other})
        assert any(key in text for text in doctored.judge(run.history()))


def test_what_is_not_decided_within_the_limit_is_no_pass(run: Run) -> None:
    found = check_linearizable(run.history(), contents=run.before, steps_max=10)
    assert found
    assert all("undecided" in str(each) and "not decided within 10 steps" in str(each)
               for each in found)  # fmt: skip
