"""The record of what clients did and saw."""

from __future__ import annotations

import threading

import pytest

from sofs.sim.history import COLUMNS, History, HistoryFull


def _clock() -> int:
    _clock.at += 1500  # type: ignore[attr-defined]
    return _clock.at  # type: ignore[attr-defined,no-any-return]


_clock.at = 0  # type: ignore[attr-defined]


def _story() -> History:
    history = History(_clock)
    write = history.invoke("a", "write", "/f", 0, b"0123456789abcdef")
    read = history.invoke("b", "read", "/f", 0, 4)
    history.note("kill node-1")
    history.ok(read, b"0123")
    history.unknown(write, "UNKNOWN_OUTCOME")
    history.refused(history.invoke("b", "create", "vol", "/f"), "OBJECT_NAME_COLLISION")
    history.invoke("a", "listdir", "vol", "/")
    return history


def test_an_operation_that_returned_before_another_was_called_is_before_it_in_order() -> None:
    history = History(lambda: 7)
    first = history.invoke("a", "get", "n")
    history.ok(first, 1)
    second = history.invoke("b", "get", "n")
    assert first.returned is not None
    assert first.called < first.returned < second.called
    assert first.called_us == second.called_us


def test_an_outcome_is_told_once() -> None:
    history = History(lambda: 0)
    operation = history.invoke("a", "get", "n")
    history.refused(operation, "EXPIRED")
    with pytest.raises(ValueError, match="already"):
        history.ok(operation, 3)
    assert operation.code == "EXPIRED"


def test_unknown_and_pending_end_at_infinity_and_refused_does_not() -> None:
    history = _story()
    assert [o.end == float("inf") for o in history.operations] == [True, False, False, True]


def test_a_history_comes_back_from_its_lines_as_it_was() -> None:
    history = _story()
    lines = list(history.dump())
    again = History.load(lines)
    assert list(again.dump()) == lines
    assert again.operations[0].arguments == (0, b"0123456789abcdef")
    assert again.notes == history.notes
    with pytest.raises(RuntimeError, match="not recorded on"):
        again.invoke("a", "get", "n")


def test_a_line_with_another_outcome_is_refused() -> None:
    lines = [line.replace('"unknown"', '"perhaps"') for line in _story().dump()]
    with pytest.raises(ValueError, match="perhaps"):
        History.load(lines)


def test_the_recorder_stops_at_its_limits() -> None:
    history = History(lambda: 0, operations_max=2, bytes_max=10)
    history.invoke("a", "write", "/f", 0, b"12345678")
    with pytest.raises(HistoryFull, match="bytes"):
        history.invoke("a", "write", "/f", 0, b"12345678")
    small = History(lambda: 0, operations_max=2)
    small.invoke("a", "get", "n")
    small.note("a fault")
    with pytest.raises(HistoryFull, match="operations"):
        small.invoke("a", "get", "n")


def test_a_window_shows_the_operations_their_neighbours_and_the_faults_in_100_columns() -> None:
    history = _story()
    for number in range(200):
        history.ok(history.invoke("a", "write", "/f", number, bytes(5000)))
    text = history.window(history.operations[:1])
    assert "kill node-1" in text
    assert "*" in text.splitlines()[1]
    assert "unknown UNKNOWN_OUTCOME" in text
    assert "create" not in text  # Another key.
    assert max(map(len, text.splitlines())) <= COLUMNS
    assert len(text.splitlines()) < 80


def test_threads_may_record_at_the_same_time_and_every_event_gets_its_own_place() -> None:
    history = History(lambda: 0)

    def work(name: str) -> None:
        for number in range(2000):
            history.ok(history.invoke(name, "add", "n", number), number)

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    places = [p for o in history.operations for p in (o.called, o.returned)]
    assert len(places) == len(set(places)) == 16_000
