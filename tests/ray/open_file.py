"""A client with one open file, for tests that take machines away under it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import sofs


class Served(Protocol):
    """A cluster as far as a client needs it."""

    @property
    def url(self) -> str: ...

    @property
    def credential(self) -> str: ...

    def last_words(self, lines: int = 25) -> str: ...


def until(condition: Callable[[], bool], what: str, cluster: Served) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, f"not within 90 s: {what}\n{cluster.last_words(40)}"
        time.sleep(0.1)


class OpenFile:
    """A client that appends without a pause to a file that it opened once; every error is kept."""

    def __init__(self, cluster: Served) -> None:
        self._share = sofs.connect(cluster.url, credential=cluster.credential)
        self._file = self._share.open("/open-file", "w+b")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0
        self.errors: list[BaseException] = []
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._file.pwrite(self.count.to_bytes(8, "big"), self.count * 8)
                self.count += 1
        except BaseException as error:
            self.errors.append(error)

    def goes_on(self, cluster: Served) -> None:
        count = self.count
        until(lambda: bool(self.errors) or self.count > count + 5, "the open file", cluster)
        assert not self.errors, self.errors

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        assert not self.errors, self.errors
        data = self._file.pread(8 * self.count, 0)
        assert data == b"".join(i.to_bytes(8, "big") for i in range(self.count))
        self._file.close()
        self._share.close()
