from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofs.constants import WINDOW_OPS_MAX
from sofs.core.messages import Window
from sofs.core.window import (
    BeyondWindow,
    Completed,
    Forgotten,
    Fresh,
    Judgement,
    OpWindow,
    WasAbandoned,
)
from sofs.errors import InvalidParameter


class NaiveWindow:
    """Remembers everything, op by op."""

    def __init__(self) -> None:
        self.settled: dict[int, tuple[str, int | None]] = {}
        self.acked = 1

    def watermark(self) -> int:
        mark = 1
        while mark in self.settled or mark < self.acked:
            mark += 1
        return mark

    def settle(self, op: int, how: str, offset: int | None) -> None:
        if op >= self.acked and op not in self.settled:
            self.settled[op] = (how, offset)

    def judge(self, op: int) -> Judgement:
        mark = self.watermark()
        if op >= self.acked and op in self.settled:
            how, offset = self.settled[op]
            if how == "abandon":
                return WasAbandoned()
            if offset is not None:
                return Completed(offset)
            return Forgotten() if op < mark else Completed(None)
        if op < mark:
            return Forgotten()
        kept = sum(
            1 for k, (how, at) in self.settled.items()
            if k >= self.acked and (how == "abandon" or at is not None)
        )  # fmt: skip
        if op >= mark + WINDOW_OPS_MAX or kept >= WINDOW_OPS_MAX:
            return BeyondWindow()
        return Fresh()


ops = st.integers(1, 40)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), ops, st.none()),
        st.tuples(st.just("append"), ops, st.integers(0, 1 << 40)),
        st.tuples(st.just("abandon"), ops, st.none()),
        st.tuples(st.just("ack"), ops, st.none()),
        st.tuples(st.just("travel"), ops, st.none()),
    ),
    max_size=60,
)


@given(steps)
def test_a_window_judges_like_a_model_that_remembers_everything(
    history: list[tuple[str, int, int | None]],
) -> None:
    window, naive = OpWindow(), NaiveWindow()
    for kind, op, offset in history:
        if kind == "ack":
            window.ack_below(op)
            naive.acked = max(naive.acked, op)
        elif kind == "abandon":
            window.abandon(op)
            naive.settle(op, "abandon", None)
        elif kind == "travel":
            window = OpWindow.from_message(window.to_message(7, 3))
        else:
            window.complete(op, offset)
            naive.settle(op, "done", offset)
        assert window.watermark == naive.watermark()
        for probe in range(1, 45):
            assert window.judge(probe) == naive.judge(probe), probe
        far = naive.watermark() + WINDOW_OPS_MAX
        assert window.judge(far) == naive.judge(far) == BeyondWindow()


def test_a_window_survives_the_wire() -> None:
    window = OpWindow()
    window.complete(1)
    window.complete(3, 4096)
    window.abandon(9)
    message = window.to_message(5, 2)
    assert (message.handle, message.generation, message.watermark) == (5, 2, 2)
    assert OpWindow.from_message(message).to_message(5, 2) == message


def test_a_fresh_window_is_the_default_message() -> None:
    assert OpWindow().to_message(0, 0) == Window()


def test_a_refused_operation_that_was_acknowledged_is_never_fresh_again() -> None:
    window = OpWindow()
    window.complete(1)
    window.complete(3)
    assert window.judge(2) == Fresh()
    window.ack_below(4)
    assert window.judge(2) == Forgotten()


def test_an_unacknowledged_append_keeps_its_answer_below_the_watermark() -> None:
    window = OpWindow()
    window.complete(1, 512)
    window.complete(2)
    assert window.judge(1) == Completed(512)
    window.ack_below(2)
    assert window.judge(1) == Forgotten()


def test_answers_that_are_never_acknowledged_stop_new_operations() -> None:
    window = OpWindow()
    for op in range(1, WINDOW_OPS_MAX + 1):
        assert window.judge(op) == Fresh()
        window.complete(op, op)
    assert window.judge(WINDOW_OPS_MAX + 1) == BeyondWindow()
    window.ack_below(2)
    assert window.judge(WINDOW_OPS_MAX + 1) == Fresh()


def test_op_sequences_outside_their_range_are_refused() -> None:
    window = OpWindow()
    with pytest.raises(InvalidParameter):
        window.judge(0)
    with pytest.raises(InvalidParameter):
        window.judge(2**62 + 1)
    with pytest.raises(InvalidParameter):
        window.ack_below(2**63)
    with pytest.raises(InvalidParameter):
        OpWindow.from_message(Window(watermark=0))
