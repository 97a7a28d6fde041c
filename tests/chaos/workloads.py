"""Applications under fault: each worker does one kind of work through the SDK and knows what must
be true.

A worker is one thread with its own client. It counts an operation as acknowledged when the SDK
returned, and then holds the file system to it: ``verify`` compares what is stored with what was
acknowledged. An operation that raised anything is an error of the run: the promise is a pause and
nothing else. Workers that share a file record what they do in one history (``recorded.py``), which
is judged at the end, too.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import sofs
from sofs.client.sync import Share
from sofs.sim.history import History

from .recorded import LOG_APPENDS, PAGE, REGISTER_BYTES, REGISTERS, Told, judge, recorded

BLOCK = 4096


class Worker(threading.Thread):
    """Repeats ``step`` until told to stop; remembers errors, the longest call, and what is in
    flight. ``path``: what it shares with others of its kind and ``episode``."""

    path = ""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Share],
        seed: int,
        history: History,
        episode: int = 0,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.history = history
        self.path = f"{self.path}-{episode}"
        self.random = random.Random(f"{seed}/{name}")
        self.errors: list[str] = []
        self.operations = 0
        self.longest_ms = 0.0
        self.began: float | None = None
        self._connect = connect
        self._stop_now = threading.Event()

    @property
    def in_flight(self) -> bool:
        return self.began is not None

    def run(self) -> None:
        try:
            self.share = self._connect()
            self.set_up()
            while not self._stop_now.is_set():
                self.timed(self.step)
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            self.errors.append(
                f"{self.name} after {self.operations}: {type(error).__name__}: {error} "
                f"({at.filename.rsplit('/', 1)[-1]}:{at.lineno})"
            )

    def timed(self, work: Callable[[], None]) -> None:
        self.began = time.perf_counter()
        try:
            work()
            self.operations += 1
        finally:
            self.longest_ms = max(self.longest_ms, (time.perf_counter() - self.began) * 1e3)
            self.began = None

    def finish(self) -> None:
        self._stop_now.set()
        self.join(120)
        if self.is_alive():
            self.errors.append(f"{self.name}: still inside a call after 120 s")
        elif hasattr(self, "share"):
            with contextlib.suppress(sofs.SofsError):
                self.share.close()

    def recorded(self, kind: str, key: str, *arguments: Any) -> AbstractContextManager[Told]:
        return recorded(self.history, self.name, kind, key, *arguments)

    def set_up(self) -> None:
        """Open what the worker works on."""

    def step(self) -> None:
        raise AssertionError("a worker does something")

    def verify(self, share: Share) -> list[str]:
        """Return what is wrong with what is stored, through another client."""
        return []


class BlockWriter(Worker):
    """Random writes and reads of its own file, unaligned ones too, against a copy in memory."""

    size = 64 * BLOCK

    def set_up(self) -> None:
        self.model = bytearray(self.size)
        self.file = self.share.open(f"/{self.name}", "w+b")
        self.file.pwrite(bytes(self.size), 0)

    def step(self) -> None:
        offset = self.random.randrange(self.size - 2 * BLOCK)
        length = self.random.choice((1, 100, BLOCK, BLOCK + 7))
        if self.random.random() < 0.3:
            got = self.file.pread(length, offset)
            if got != self.model[offset : offset + length]:
                raise AssertionError(f"read at {offset} differs from what was acknowledged")
            return
        data = self.random.randbytes(length)
        self.file.pwrite(data, offset)
        self.model[offset : offset + length] = data

    def verify(self, share: Share) -> list[str]:
        got = share.read_file(f"/{self.name}")
        if got == self.model:
            return []
        at = next(i for i in range(len(self.model)) if got[i : i + 1] != self.model[i : i + 1])
        return [f"{self.name}: differs from what was acknowledged at byte {at}"]


class Registers(Worker):
    """Reads and writes registers, a page each, of a file that several clients share through
    different nodes."""

    path = "/registers"
    before = bytes(REGISTERS * PAGE)

    def set_up(self) -> None:
        with contextlib.suppress(sofs.ObjectNameCollision):
            self.share.write_file(self.path, self.before, exclusive=True)
        self.file = self.share.open(self.path, "r+b")
        self.serials = itertools.count(1)

    def step(self) -> None:
        offset = self.random.randrange(REGISTERS) * PAGE
        if self.random.random() < 0.5:
            with self.recorded("read", self.path, offset, REGISTER_BYTES) as told:
                told.result = self.file.pread(REGISTER_BYTES, offset)
            return
        data = f"{self.name} {next(self.serials)}".encode().ljust(REGISTER_BYTES, b".")
        with self.recorded("write", self.path, offset, data):
            self.file.pwrite(data, offset)


class Appender(Worker):
    """Appends numbered lines to files that several appenders share, one after the other: each
    exactly once, in order."""

    path = "/audit"

    def set_up(self) -> None:
        self.acknowledged = 0
        self.paths: list[str] = []

    def step(self) -> None:
        if self.acknowledged % LOG_APPENDS == 0:
            if self.paths:
                self.file.close()
            self.paths.append(f"{self.path}-{len(self.paths)}")
            self.file = self.share.open(self.paths[-1], "ab")
        line = f"{self.name} {self.acknowledged:08d}\n".encode()
        with self.recorded("append", self.paths[-1], line) as told:
            told.result = self.file.append(line)
        self.acknowledged += 1

    def verify(self, share: Share) -> list[str]:
        lines = [
            line for path in self.paths for line in share.read_file(path).decode().splitlines()
        ]
        mine = [int(line.split()[1]) for line in lines if line.startswith(f"{self.name} ")]
        wrong = []
        if mine != list(range(self.acknowledged)):
            wrong.append(
                f"{self.name}: {self.acknowledged} appends acknowledged, the files have "
                f"{len(mine)} ({len(set(mine))} different)"
            )
        return wrong


class Counter(Worker):
    """Increments a number in a shared file under a byte-range lock: no increment lost, none
    doubled."""

    path = "/counter"

    def set_up(self) -> None:
        self.file = self.share.open(self.path, "a+b")
        self.acknowledged = 0

    def step(self) -> None:
        with self.recorded("add", self.path, 1) as added:
            with self.recorded("lock", self.path, 0, 16, True, self.name):
                self.file.lock(0, 16, wait=True)
            value = int(self.file.pread(16, 0) or b"0")
            self.file.pwrite(f"{value + 1:016d}".encode(), 0)
            with self.recorded("unlock", self.path, 0, 16, self.name):
                self.file.unlock(0, 16)
            added.result = value + 1
        self.acknowledged += 1


class Namer(Worker):
    """Creates, renames and unlinks names of its own folder against a model."""

    def set_up(self) -> None:
        self.folder = f"/{self.name}"
        self.share.mkdir(self.folder)
        self.model: dict[str, bytes] = {}
        self.serial = 0

    def step(self) -> None:
        choice = self.random.random()
        names = list(self.model)
        if not names or (choice < 0.5 and len(names) < 200):
            self.serial += 1
            name, data = f"f{self.serial}", self.random.randbytes(self.random.choice((0, 10, 5000)))
            self.share.write_file(f"{self.folder}/{name}", data, exclusive=True)
            self.model[name] = data
        elif choice < 0.7:
            name = self.random.choice(names)
            self.serial += 1
            self.share.rename(f"{self.folder}/{name}", f"{self.folder}/r{self.serial}")
            self.model[f"r{self.serial}"] = self.model.pop(name)
        elif choice < 0.85:
            name = self.random.choice(names)
            self.share.unlink(f"{self.folder}/{name}")
            del self.model[name]
        else:
            name = self.random.choice(names)
            if self.share.read_file(f"{self.folder}/{name}") != self.model[name]:
                raise AssertionError(f"{name} differs from what was acknowledged")

    def verify(self, share: Share) -> list[str]:
        wrong = []
        if sorted(share.listdir(self.folder)) != sorted(self.model):
            wrong.append(f"{self.name}: the folder's names differ from what was acknowledged")
        for name, data in self.model.items():
            try:
                if share.read_file(f"{self.folder}/{name}") != data:
                    wrong.append(f"{self.name}/{name}: contents differ")
            except sofs.SofsError as error:
                wrong.append(f"{self.name}/{name}: {error}")
        return wrong


def verify(workers: list[Worker], share: Share) -> list[str]:
    """Return everything that is wrong, after the run: what each worker knows by itself, and what
    all of them saw together."""
    wrong = [text for worker in workers for text in worker.verify(share)]
    return wrong + judge(workers[0].history, *shared_files(workers, share))


def shared_files(
    workers: list[Worker], share: Share
) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, int]]:
    """What the files of the history hold, what they held before it, and counters' numbers."""
    paths: dict[str, None] = {}
    before: dict[str, bytes] = {}
    totals: dict[str, int] = {}
    for worker in workers:
        if isinstance(worker, Appender):
            paths |= dict.fromkeys(worker.paths)
        elif isinstance(worker, Registers):
            paths[worker.path] = None
            before[worker.path] = worker.before
        elif isinstance(worker, Counter):
            totals[worker.path] = int(share.read_file(worker.path) or b"0")
    return {path: share.read_file(path) for path in paths}, before, totals
