"""Recovering an authority's state from the store: lineage, checkpoint, replay (R4, R10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sofs.core.entries import CheckpointRef, Entry, Lineage
from sofs.ids import Position
from sofs.ports.log import Claim


@dataclass(frozen=True, slots=True)
class Replay:
    """State as a base and what to apply to it.

    ``image``: serialized database to load first; None means "keep what you have at ``after``", or
    an empty database when nothing was kept. ``changesets``: to apply in order. ``position``: after
    them.
    """

    image: bytes | None
    changesets: Sequence[bytes]
    position: Position


@dataclass(frozen=True, slots=True)
class Known:
    """What a follower has of its owner's log, from records that the owner pushed after they were
    durable and checked: everything up to ``position``, and the newest checkpoint named so far."""

    position: Position
    checkpoint: CheckpointRef | None


class LogRecovery(Protocol):
    def digest(self, image: bytes) -> int:
        """Return the checksum that a CheckpointRef holds for ``image``."""
        ...

    async def derive_lineage(self, claim: Claim, *, known: Known | None = None) -> Lineage:
        """Seal every log that ``claim`` (won just now) supersedes and return the lineage to write
        first.

        Walks down from ``claim.epoch - 1``; the first log with a lineage record ends the walk and
        that lineage is final; a log without one never served and is sealed empty. The result starts
        at the newest checkpoint that the sealed history names. Raises Corrupt, StoreFailed,
        StoreUnknown.
        """
        ...

    async def replay(self, lineage: Lineage, *, after: Position | None) -> Replay:
        """Return the state at the lineage's end: from ``after`` when that lies inside it and what
        follows was not deleted, else from the checkpoint (then with its image, if there is one).
        Raises Corrupt when the checkpoint or a record that is needed is damaged or missing."""
        ...

    async def read_live(
        self, claim: Claim, *, through_sequence: int
    ) -> tuple[Lineage, Sequence[tuple[int, Entry]]]:
        """Read the log of a serving owner without sealing: its lineage and its entries (sequence,
        entry) up to a sequence that the owner said is durable. For followers that fell behind."""
        ...
