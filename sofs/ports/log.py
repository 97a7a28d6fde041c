"""Claims and fenced logs over a store; the same port for append and slot backends.

A *role* is a name such as ``volume`` or ``node-<incarnation>``. Who wins ``claims/<role>/<epoch>``
owns that epoch's log. A log is written by one incarnation through one ``LogWriter`` and sealed by
its successor through ``FencedStore.seal``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sofs.core.record import Record, RecordKind
from sofs.ids import Epoch, Incarnation
from sofs.ids import Sequence as Seq
from sofs.ports.store import Buffer, Store


@dataclass(frozen=True, slots=True)
class Claim:
    """The contents of a claim object. ``endpoint`` is data, never identity; ``nonce`` is secret
    (R5)."""

    role: str
    epoch: Epoch
    incarnation: Incarnation
    nonce: bytes
    endpoint: str
    run_id: bytes = b""
    part: str = ""  # For people: "coordinator", "resume-key", "node", "leader", "seal by ...".


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an appended record lies. ``sums`` are the checksums of its data blocks (data records
    only)."""

    sequence: Seq
    segment: int
    payload_offset: int
    sums: Sequence[int] = field(default=())


@dataclass(frozen=True, slots=True)
class Gap:
    """Records ``first..last`` of a log that were durable and cannot be read any more. ``what``
    names the object and the place."""

    first: int
    last: int
    what: str


@dataclass(frozen=True, slots=True)
class SealedLog:
    """A log that will never grow. ``last_sequence`` is ``first_sequence - 1`` when it holds no
    record."""

    claim: Claim
    first_sequence: int
    last_sequence: int
    records: Sequence[Record]
    """The records asked for, in order, verified; payloads are memoryviews."""
    resumed_at: int = 0
    """First record behind deleted segments: those between the first segment and it are gone (0:
    none)."""
    gaps: Sequence[Gap] = ()
    """What damage took of it, ascending; only with ``damaged_ok``. Some may lie at or below
    ``after_sequence``."""


class LogWriter(Protocol):
    """Ordered durable appends by the one owner of a claim, with group commit.

    ``append`` is synchronous: order of calls is order of records. A committer takes all that is
    queued as one batch: write, sync, then one check that the next claim is absent (R3, R8); only
    then are the batch's records durable *and acknowledged*. Any error or a lost check ends the log
    for good (R7): all waiters and later calls get ``OutcomeUnknown`` (or ``Fenced``), and
    ``on_end`` is called once.
    """

    @property
    def claim(self) -> Claim: ...

    @property
    def next_sequence(self) -> int: ...

    @property
    def durable_sequence(self) -> int:
        """Highest sequence that is durable and checked."""
        ...

    @property
    def batch_trace(self) -> bytes:
        """The context of the span in which the newest acknowledged batch was made durable."""
        ...

    @property
    def ended(self) -> BaseException | None:
        """Why the log ended, or None while it lives."""
        ...

    async def room(self, n_bytes: int) -> None:
        """Return when the next append of ``n_bytes`` of payload cannot meet a full disk.

        Raises DiskFull (definite; nothing was appended) and the log lives on. Returns without
        suspending in the common case. Call it directly before ``append``.
        """
        ...

    def append(
        self,
        kind: RecordKind,
        payload: Sequence[Buffer],
        extension: bytes = b"",
        *,
        block_sums: bool = False,
    ) -> Placement:
        """Queue one record and return where it will lie. The buffers must not change afterwards.

        ``payload`` buffers are concatenated; with ``block_sums`` its length is a multiple of
        BLOCK_BYTES and each block gets a checksum of its own, returned in the placement.
        """
        ...

    async def durable(self, sequence: int) -> None:
        """Return once ``sequence`` is durable and checked; raises why the log ended otherwise."""
        ...

    async def check(self) -> None:
        """Return if, at some moment after this call began, no successor had claimed; else raise
        Fenced.

        Precedes every reply that serves data read before the call (R3). Does not suspend on append
        backends.
        """
        ...

    def on_end(self, callback: Callable[[BaseException], None]) -> None: ...

    def on_durable(self, callback: Callable[[int, int, Sequence[bytes]], None]) -> None:
        """Call ``callback(first, last, encoded records)`` on the loop after each acknowledged
        batch, before the waiters of ``durable`` run. For followers and for publishing extents in
        order."""
        ...

    def counters(self) -> dict[str, int]:
        """Counts for metrics and tests: batches, records, bytes, syncs, checks."""
        ...

    async def close(self) -> None:
        """Finish the queue and release descriptors; the claim stays."""
        ...


class BlockReader(Protocol):
    """Reads data blocks of any log of one store by place; verifies nothing."""

    def cached(self, role: str, epoch: int, segment: int, offset: int, length: int) -> bytes | None:
        """Return the bytes if that needs no waiting, else None; never blocks the loop."""
        ...

    async def read(self, role: str, epoch: int, segment: int, offset: int, length: int) -> bytes:
        """Return the bytes; StoreFailed names the object when it is missing or short."""
        ...

    def will_need(self, role: str, epoch: int, segment: int, offset: int, length: int) -> None: ...


class FencedStore(Protocol):
    """Claims, logs and objects of one root."""

    @property
    def store(self) -> Store: ...

    @property
    def blocks(self) -> BlockReader: ...

    async def highest_claim(self, role: str, *, hint: int = 0) -> Claim | None:
        """Return the claim with the highest epoch, probing upward from ``hint`` (or the hint
        file)."""
        ...

    async def read_claim(self, role: str, epoch: int) -> Claim | None: ...

    async def try_claim(self, claim: Claim) -> Claim | None:
        """Try to win ``claim.epoch``. Return None when won, else the winner's claim.

        The claim is durable before this returns. Raises StoreUnknown when the outcome is open: the
        caller must neither serve nor assume that it lost.
        """
        ...

    async def open_log(self, claim: Claim, *, first_sequence: int) -> LogWriter:
        """Open the log of a claim that this process won just now; its first record has
        ``first_sequence``."""
        ...

    async def peek_log(
        self, claim: Claim, *, records_max: int, after_sequence: int = 0
    ) -> Sequence[Record]:
        """Return up to ``records_max`` whole records above ``after_sequence``, without sealing (for
        lineage, and for followers: what follows a record that the owner called durable may yet be
        cut)."""
        ...

    async def seal(
        self,
        claim: Claim,
        *,
        after_sequence: int = 0,
        known_durable: int = 0,
        deleted_ok: bool = False,
        damaged_ok: bool = False,
    ) -> SealedLog:
        """R4 for a log whose successor claim this process owns: read to the first record that is
        not whole, tell a torn tail from corruption (R5), fsync what was read and its folder, drop
        cached pages, verify the adopted tail again. Returns records above ``after_sequence``.

        ``after_sequence`` and ``known_durable`` name sequences of this log that the caller knows as
        acknowledged (from an extent, a lineage, a table): both are evidence for R5. Segments that
        hold nothing above ``after_sequence`` are not read. Sealing twice gives the same answer.

        Raises Corrupt when a bad record lies at or below one known as durable, or when segments
        behind the first are missing that held records above ``after_sequence``; with ``deleted_ok``
        the latter is told by ``SealedLog.resumed_at`` and the caller judges. With ``damaged_ok``
        the log is read on behind bad records, and ``SealedLog.gaps`` names them; ``last_sequence``
        then counts them too.
        """
        ...

    async def delete_segments(
        self, claim: Claim, *, below_segment: int, keep_first: bool = False
    ) -> int:
        """Delete the log's segments with a lower number, ascending; returns how many. Segment 0
        goes last and only with the whole log, since it states where the log begins and holds its
        lineage; ``keep_first`` keeps it even then. The caller has an acknowledged boundary that
        makes them needless (R10)."""
        ...

    async def probe_latency(self) -> None:
        """Complete one small durable store operation of its own (R14: evidence that our disk
        works)."""
        ...

    async def put_object(self, key: str, data: bytes) -> None:
        """Create an object under a name of our own (checkpoints); it must not exist."""
        ...

    async def get_object(self, key: str) -> bytes | None: ...

    async def list_objects(self, prefix: str) -> list[str]: ...

    async def delete_object(self, key: str) -> None: ...
