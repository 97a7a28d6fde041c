"""Commands that start processes and make folders end in order, however they are told to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

CAUGHT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupt:
    """Handles a signal: the first raises KeyboardInterrupt. Once it is ending, further ones wait
    for the clean-up."""

    def __init__(self) -> None:
        self._ending = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._ending:
            self._ending = True
            raise KeyboardInterrupt


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does; one inside another changes nothing."""
    inner = isinstance(signal.getsignal(signal.SIGTERM), _Interrupt)
    if inner or threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupt = _Interrupt()
    before = [signal.signal(each, interrupt) for each in CAUGHT]
    try:
        yield
    finally:
        for each, handler in zip(CAUGHT, before, strict=True):
            signal.signal(each, handler)
