"""Unknown writes that somebody saw.

A write of unknown outcome could have taken effect at any time or never, and a search that must try
both for each of many is slow. But if a read gave bytes that only this write can have put there, the
write did take effect, and before that read returned: for the search it is a definite operation that
ends there. Nothing is guessed: the bytes must be at least EVIDENCE_BYTES long, and neither be what
the file held before nor occur in the data of any other write (zeros are no evidence: holes are
made of them). Workloads that write random data give such evidence with every read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sofs.sim.history import Operation

EVIDENCE_BYTES: Final = 8


def pinned(operations: Sequence[Operation], content: bytes = b"") -> list[Operation]:
    """The operations of one file; unknown writes and appends that an ok read has seen are replaced
    by ok ones that return when the first such read does."""
    reads = [o for o in operations if o.kind == "read" and o.outcome == "ok" and o.result]
    reads.sort(key=lambda o: o.end)
    writes = [o for o in operations if o.kind in ("write", "append")]
    result = []
    for operation in operations:
        if operation.maybe and operation.kind in ("write", "append"):
            others = [_data(o) for o in writes if o is not operation]
            seen = _first_read(operation, reads, [content, *others])
            if seen is not None:
                operation = replace(operation, outcome="ok", result=None, returned=seen.returned)
        result.append(operation)
    return result


def _data(operation: Operation) -> bytes:
    return bytes(operation.arguments[-1])


def _first_read(
    write: Operation, reads: Sequence[Operation], others: Sequence[bytes]
) -> Operation | None:
    data = _data(write)
    for read in reads:
        if read.end < write.called:
            continue
        piece = _append_seen(read, data) if write.kind == "append" else _seen(read, write)
        if piece is not None and any(piece) and not any(piece in other for other in others):
            return read
    return None


def _append_seen(read: Operation, data: bytes) -> bytes | None:
    """Where an append landed is not known: its first or last bytes may be anywhere in the read."""
    for piece in (data[:EVIDENCE_BYTES], data[-EVIDENCE_BYTES:]):
        if len(piece) == EVIDENCE_BYTES and piece in read.result:
            return piece
    return None


def _seen(read: Operation, write: Operation) -> bytes | None:
    """EVIDENCE_BYTES of the write's data at their place in the read."""
    offset, data = int(write.arguments[0]), _data(write)
    start = int(read.arguments[0])
    first, end = max(offset, start), min(offset + len(data), start + len(read.result))
    for at in range(first, end - EVIDENCE_BYTES + 1, EVIDENCE_BYTES):
        piece = data[at - offset : at - offset + EVIDENCE_BYTES]
        if piece == read.result[at - start : at - start + EVIDENCE_BYTES]:
            return piece
    return None
