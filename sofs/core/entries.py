"""Entries of an authority's log, and the lineage rule of R4.

The payload of an ENTRY record is one of these in a protobuf envelope (``sofs.record.v1``); the
codec is in ``sofs/storage/entries.py``. An unknown entry refuses to serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sofs.ids import Position


@dataclass(frozen=True, slots=True)
class Changeset:
    """The changes of one group of transactions (SQLite session changeset), and the schema that they
    need."""

    schema_version: int
    changes: bytes


@dataclass(frozen=True, slots=True)
class SealedEpoch:
    """One epoch of a history: its records ``first_sequence..last_sequence`` count, later ones never
    did."""

    epoch: int
    first_sequence: int
    last_sequence: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """A checkpoint object: state after ``position``; ``digest`` is the xxh3_64 of the object's
    bytes."""

    key: str
    position: Position
    digest: int
    n_bytes: int
    schema_version: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """First record of every authority log that ever served: the sealed history it stands on, oldest
    first, from the checkpoint it starts at (None: from nothing)."""

    checkpoint: CheckpointRef | None
    history: Sequence[SealedEpoch]


@dataclass(frozen=True, slots=True)
class Handover:
    """Last record of a log that was handed back: only ``target`` is asked to claim next."""

    target: bytes
    last_sequence: int


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """Names a checkpoint: from here on recovery may start at it (R10)."""

    checkpoint: CheckpointRef


@dataclass(frozen=True, slots=True)
class Boundary:
    """Everything of this role's logs below ``position`` and the objects ``needless`` may be deleted
    once this record is acknowledged (R10)."""

    position: Position
    needless: Sequence[str]


Entry = Changeset | Lineage | Handover | CheckpointEntry | Boundary


class EntryCodec(Protocol):
    """Entries as bytes."""

    def encode(self, entry: Entry) -> bytes: ...

    def decode(self, payload: bytes | memoryview) -> Entry:
        """Raises FormatRefused for an entry that this version does not know."""
        ...


def holds(lineage: Sequence[SealedEpoch], position: Position) -> bool:
    """Is ``position`` a point of the history? (A follower may keep state read ahead only if it is:
    R4.)"""
    if position.sequence == 0:
        return True
    return any(
        sealed.epoch == position.epoch
        and sealed.first_sequence <= position.sequence <= sealed.last_sequence
        for sealed in lineage
    )
