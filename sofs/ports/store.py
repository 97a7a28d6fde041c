"""The store: what a volume's or cluster's root must be able to do. Two kinds of backend, one
contract.

Every call blocks and is made through ``Blocking.run``. Keys are relative slash-separated paths of
``[a-z0-9._-]`` components. Errors: ``StoreFailed`` (definitely refused or failed before any effect
is promised), ``StoreUnknown`` (may have happened: never guessed, never served upon), ``DiskFull``,
``ReadOnlyBackend``. Each names the key.

*Append* backends (R11: ext4, xfs, btrfs, tmpfs) have segments: files appended by one writer, and
guards: the claim check. *Slot* backends (R12: object stores) have only whole objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Won:
    """The key did not exist and now holds exactly our bytes, durably."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The key existed already with other bytes."""

    existing: bytes


class Store(Protocol):
    """One root on a backend that passed the probe."""

    @property
    def url(self) -> str: ...

    @property
    def kind(self) -> Literal["append", "slots"]: ...

    def put_if_absent(self, key: str, data: bytes) -> Won | Lost:
        """Create ``key`` with ``data`` durably, unless it exists. Exactly one of any number of
        callers wins.

        ``data`` must hold a nonce of the caller: a retry after a lost reply recognises its own
        object by equality and returns ``Won``. An outcome that cannot be resolved raises
        ``StoreUnknown``.
        """
        ...

    def get(self, key: str) -> bytes | None:
        """Return the whole object, or None when it does not exist (strongly consistent)."""
        ...

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes at ``offset``; shorter only at the end; StoreFailed when
        missing."""
        ...

    def list(self, prefix: str, *, after: str = "") -> list[str]:
        """Return the keys below the folder ``prefix``, sorted; temporary names are left out, and
        with ``after`` what does not sort behind that key: an object store need not show it then.

        Every key whose creation was answered before the call, and that nobody has begun to delete,
        is in it. A key that was deleted may be, for a while: whoever needs to know asks ``get``."""
        ...

    def delete(self, key: str) -> None:
        """Delete ``key`` durably; deleting what does not exist is no error."""
        ...

    def put_hint(self, key: str, data: bytes) -> None:
        """Overwrite a small object that only says where to start looking: neither atomic nor
        durable, and a failure is silent. What it says is never trusted."""
        ...


class AppendStore(Store, Protocol):
    """A backend with files (kind ``append``)."""

    def create_segment(self, key: str, *, zero_fill_bytes: int) -> Segment:
        """Create the segment durably (file and folder synced). With ``zero_fill_bytes`` > 0 it is
        written with that many zeros and synced, so that later appends neither allocate nor meet a
        full disk. The key must be absent: ``StoreFailed`` otherwise (R6: names are never
        reused)."""
        ...

    def open_segment(self, key: str) -> SegmentReader:
        """Open for reading; ``StoreFailed`` when missing."""
        ...

    def open_guard(self, folder: str) -> Guard:
        """Open the claim folder once, creating it if needed; the guard looks names up relative to
        it."""
        ...


class Segment(Protocol):
    """A segment being written by its one owner."""

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write all ``buffers`` one after another at ``offset``; a short write raises
        StoreFailed."""
        ...

    def sync(self) -> None:
        """fdatasync. An error is final for the log: it is never retried (R7)."""
        ...

    def reserve(self, size: int) -> None:
        """Allocate room up to offset ``size`` without writing, so that later appends cannot meet a
        full disk; ``DiskFull`` is definite and leaves the segment as it was."""
        ...

    def trim(self, size: int) -> None:
        """Give back what was reserved behind offset ``size``. Only for a segment that is
        complete."""
        ...

    def close(self) -> None: ...


class SegmentReader(Protocol):
    """A segment being read; stays valid after the file was deleted."""

    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes; shorter only at the end of the file."""
        ...

    def next_data(self, offset: int) -> int:
        """Offset, at or after ``offset``, before which nothing was ever written: reserved space
        need not be read to know that it is zeros. Best asked before the first read. Returning
        ``offset`` itself is always right."""
        ...

    def read_cached(self, offset: int, length: int) -> bytes | None:
        """Like ``read`` but returns None instead of waiting for the device (safe on the event
        loop)."""
        ...

    def will_need(self, offset: int, length: int) -> None:
        """Ask the system to read ahead; never waits, never fails."""
        ...

    def uncache(self) -> None:
        """Let go of cached pages that are on the device; advice, never fails."""
        ...

    def sync_and_drop(self) -> None:
        """fsync the file, then drop its cached pages, so that the next read comes from the device
        (R4)."""
        ...

    def close(self) -> None: ...


class Guard(Protocol):
    """The claim check of R3: is a name absent from a folder, asked of the folder that was opened
    then."""

    def absent(self, name: str) -> bool:
        """True only for ENOENT; False when it exists; any other outcome raises StoreUnknown."""
        ...

    def close(self) -> None: ...
