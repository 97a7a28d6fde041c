"""A thread that works as an application would, until it is told to stop.

Whatever an SDK or SQLite call raises is an error that the application saw, and the promise is that
there is none; the thread then stops, and the demo ends with exit status 1.
"""

from __future__ import annotations

import threading
import time
import traceback
from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seen:
    """An error that reached an application, and when (time.monotonic)."""

    at: float
    who: str
    text: str


class Activity(threading.Thread, ABC):
    """Calls ``step`` again and again. ``steps`` counts those that returned."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.steps = 0
        self.errors: list[Seen] = []
        self._ending = threading.Event()

    def set_up(self) -> None:
        """Connect and open; called in the thread."""

    @abstractmethod
    def step(self) -> bool:
        """Do one piece of work; False when there is none left."""

    def tear_down(self) -> None:
        """Close what ``set_up`` opened."""

    def run(self) -> None:
        try:
            self.set_up()
            while not self._ending.is_set() and self.step():
                self.steps += 1
            self.tear_down()
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} ({at.filename.rsplit('/', 1)[-1]}:{at.lineno})"
            self.errors.append(Seen(time.monotonic(), self.name, text))

    def end(self) -> None:
        """Stop after the current step; join follows."""
        self._ending.set()
