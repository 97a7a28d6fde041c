from __future__ import annotations

import contextlib
import signal

import pytest

from sofs.interrupts import CAUGHT, signals_interrupt


def work_until(number: signal.Signals, *, inside_another: bool, cleaned: list[str]) -> None:
    """Meets a signal while it works, and more of them while it cleans up."""
    with signals_interrupt():
        try:
            with signals_interrupt() if inside_another else contextlib.nullcontext():
                signal.raise_signal(number)
        finally:
            for each in CAUGHT:
                signal.raise_signal(each)
            cleaned.append("all")


@pytest.mark.parametrize("inside_another", [False, True])
@pytest.mark.parametrize("number", CAUGHT)
def test_a_signal_ends_the_block_as_ctrl_c_does_and_later_ones_wait_for_the_clean_up(
    number: signal.Signals, inside_another: bool
) -> None:
    before = [signal.getsignal(each) for each in CAUGHT]
    cleaned: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        work_until(number, inside_another=inside_another, cleaned=cleaned)
    assert cleaned == ["all"]
    assert [signal.getsignal(each) for each in CAUGHT] == before
