"""Recovering an authority's state from its logs: lineage, checkpoint, replay (R4, R10).

The problem. Epochs are claimed one after another, but not every owner of an epoch ever served: it
may have died, or been superseded, before its first record was acknowledged. Several successors may
recover at once, each from what it can see. All that ever served must agree on one history.

The rule. The first record of every log that serves is its *lineage*: the sealed history it stands
on. An owner writes it after it sealed its predecessors, syncs it, checks that no successor has
claimed, and only then serves. A successor walks down from the epoch below its own and seals each
log: the first log whose first record is a lineage ends the walk, and that lineage is final; logs
without one are sealed empty.

Why it is safe. Let e be our epoch, and L the log at which the walk ended.

- Nothing acknowledged is lost. Whoever acknowledged anything in an epoch below e checked, after
its sync, that the next epoch was unclaimed; so its records, and its lineage before them, were
durable before that claim, and hence before ours and before we read. So every epoch that served has
a lineage that we see, and of those the highest below e is at or below L. If L itself never served,
its lineage was derived by this same rule below it, and stands on the highest epoch that did. -
Nothing comes back. What L's lineage left out, no later reader sees: the history is taken from L,
never from the logs below it, and each of its epochs counts only up to the sequence recorded there,
however much a frozen owner appends afterwards. A log that we sealed empty may receive a lineage
later, from an owner that was frozen before our claim; it finds our claim when it checks, and never
serves. If we die before our own lineage, the next successor may end its walk there: it stands on
the same acknowledged records. - It stays. Sealing syncs what was read before it is written into
our lineage, so no power loss after that takes away what we stand on. - Damage is not mistaken for
"never served": a first record that is not whole counts as absent only if nothing in its log names
a sequence as durable (R5).

Checkpoints. The newest CheckpointEntry in the history counts, wherever it lies: an entry is
written after its object is durable. Objects and segments below it may be gone; epochs that end
below it are dropped from the history, but for the one that it lies in, so that a follower standing
exactly there keeps its state. One that stands below it keeps its state only while what lies between
is still there: the owner deletes that without regard to followers that are frozen or cut off, and
these start at the checkpoint, as whoever followed nothing. A checkpoint object that is missing is
an error, since it is deleted only after a newer entry was acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from xxhash import xxh3_64_intdigest

from sofs.core.entries import (
    Changeset,
    CheckpointEntry,
    CheckpointRef,
    Entry,
    EntryCodec,
    Lineage,
    SealedEpoch,
    holds,
)
from sofs.core.record import Record, RecordKind
from sofs.errors import Corrupt, FormatRefused
from sofs.ids import Position
from sofs.ports.log import Claim, FencedStore, SealedLog
from sofs.ports.recovery import Known, Replay
from sofs.storage.entries import may_name_checkpoint

RECORDS_ALL: Final = 1 << 62
LIVE_TRIES_MAX: Final = 4  # Readings of a live log during which its owner may delete segments.


class StoreRecovery:
    """The LogRecovery of one role."""

    def __init__(self, fenced: FencedStore, codec: EntryCodec, role: str) -> None:
        self._fenced = fenced
        self._codec = codec
        self._role = role
        # What the last derive_lineage read, for the replay that follows it.
        self._sealed: SealedLog | None = None
        self._sealed_after = 0
        # The checkpoint that the last read_live saw: its owner may delete it before it is replayed.
        self._image: tuple[str, bytes] | None = None

    def digest(self, image: bytes) -> int:
        """Return the checksum that a CheckpointRef holds for ``image``."""
        return xxh3_64_intdigest(image)

    async def derive_lineage(self, claim: Claim, *, known: Known | None = None) -> Lineage:
        """Seal what ``claim`` supersedes and return the lineage to write first; see the port."""
        for epoch in range(claim.epoch - 1, 0, -1):
            below = await self._fenced.read_claim(self._role, epoch)
            if below is None:
                raise Corrupt(f"claim {epoch} of {self._role} is missing; claims are never deleted")
            after = known.position.sequence if known and known.position.epoch == epoch else 0
            sealed = await self._fenced.seal(below, after_sequence=after, deleted_ok=True)
            if sealed.last_sequence >= sealed.first_sequence:
                self._sealed, self._sealed_after = sealed, after
                own = await self._lineage_of(below)
                return self._continue(own, sealed, known.checkpoint if known and after else None)
        self._sealed = None
        return Lineage(None, ())

    def _continue(self, own: Lineage, sealed: SealedLog, named: CheckpointRef | None) -> Lineage:
        """The lineage of whoever comes after ``sealed``, the newest log that has one (``own``)."""
        checkpoint = self._newest_checkpoint(sealed.records) or named or own.checkpoint
        if sealed.resumed_at:
            self._judge_deleted(sealed.claim, sealed.resumed_at, checkpoint)
        epoch = SealedEpoch(
            sealed.claim.epoch, sealed.first_sequence, sealed.last_sequence, sealed.claim.nonce
        )
        return _trimmed(checkpoint, [*own.history, epoch])

    async def _lineage_of(self, claim: Claim) -> Lineage:
        """The first record of a log that has records: nothing else may come first."""
        records = await self._fenced.peek_log(claim, records_max=1)
        entry: Entry | None = None
        if records and records[0].kind is RecordKind.ENTRY:
            entry = self._codec.decode(records[0].payload)
        if not isinstance(entry, Lineage):
            raise FormatRefused(
                f"the log {claim.role}/{claim.epoch} does not begin with a lineage; "
                "use the version that wrote it"
            )
        return entry

    def _newest_checkpoint(self, records: Sequence[Record]) -> CheckpointRef | None:
        for record in reversed(records):
            if record.kind is RecordKind.ENTRY and may_name_checkpoint(record.payload):
                entry = self._codec.decode(record.payload)
                if isinstance(entry, CheckpointEntry):
                    return entry.checkpoint
        return None

    def _judge_deleted(
        self, claim: Claim, resumed_at: int, checkpoint: CheckpointRef | None
    ) -> None:
        """Segments behind the first are gone: right only below a checkpoint of this very log."""
        if (
            checkpoint is None
            or checkpoint.position.epoch != claim.epoch
            or checkpoint.position.sequence < resumed_at - 1
        ):
            raise Corrupt(
                f"records of {claim.role}/{claim.epoch} below {resumed_at} are missing, and no "
                "checkpoint covers them; restore the segments from a copy"
            )

    async def replay(self, lineage: Lineage, *, after: Position | None) -> Replay:
        """Return the state at the lineage's end; see the port."""
        checkpoint = lineage.checkpoint
        if after is not None and holds(lineage.history, after):
            try:
                return await self._from(lineage, None, after)
            except Corrupt:
                # The checkpoint may cover what is missing: below it nothing needs to exist.
                if checkpoint is None or checkpoint.position.sequence <= after.sequence:
                    raise
        image = None if checkpoint is None else await self._load(checkpoint)
        return await self._from(lineage, image, checkpoint.position if checkpoint else None)

    async def _from(self, lineage: Lineage, image: bytes | None, base: Position | None) -> Replay:
        """The state at the lineage's end, from ``base`` on, where the state is ``image``."""
        start = 0 if base is None else base.sequence
        position = base or Position(0, 0)
        changesets: list[bytes] = []
        for epoch in lineage.history:
            if epoch.last_sequence <= start:
                continue
            changesets.extend(self._changes(await self._records(epoch, start)))
            position = Position(epoch.epoch, epoch.last_sequence)
        self._sealed = None
        return Replay(image, changesets, position)

    async def _records(self, epoch: SealedEpoch, start: int) -> list[Record]:
        """The records of one sealed epoch above ``start``; the lineage decides where it ends."""
        after = max(start, epoch.first_sequence - 1)
        sealed = self._sealed
        if sealed is None or sealed.claim.nonce != epoch.nonce or after < self._sealed_after:
            claim = await self._fenced.read_claim(self._role, epoch.epoch)
            if claim is None or claim.nonce != epoch.nonce:
                raise Corrupt(
                    f"claim {epoch.epoch} of {self._role} is not the one in the lineage; "
                    "restore it from a copy"
                )
            sealed = await self._fenced.seal(
                claim,
                after_sequence=after,
                known_durable=epoch.last_sequence,
                deleted_ok=True,
            )
        records = [r for r in sealed.records if after < r.sequence <= epoch.last_sequence]
        if len(records) != epoch.last_sequence - after:
            raise Corrupt(
                f"the log {self._role}/{epoch.epoch} holds {len(records)} of the records "
                f"{after + 1} to {epoch.last_sequence}; restore it from a copy"
            )
        return records

    def _changes(self, records: Sequence[Record]) -> list[bytes]:
        changes: list[bytes] = []
        for record in records:
            if record.kind is RecordKind.ENTRY:
                entry = self._codec.decode(record.payload)
                if isinstance(entry, Changeset):
                    changes.append(entry.changes)
            elif record.kind is not RecordKind.IDLE:
                _refuse(record)
        return changes

    async def _load(self, checkpoint: CheckpointRef) -> bytes:
        kept, self._image = self._image, None
        if kept is not None and kept[0] == checkpoint.key:
            image: bytes | None = kept[1]
        else:
            image = await self._fenced.get_object(checkpoint.key)
        if image is None:
            raise Corrupt(f"the checkpoint {checkpoint.key} is missing; restore it from a copy")
        if len(image) != checkpoint.n_bytes or self.digest(image) != checkpoint.digest:
            raise Corrupt(f"the checkpoint {checkpoint.key} is damaged; restore it from a copy")
        return image

    async def read_live(
        self, claim: Claim, *, through_sequence: int
    ) -> tuple[Lineage, Sequence[tuple[int, Entry]]]:
        """Read a serving owner's log without sealing; see the port. The lineage returned starts at
        the newest checkpoint that the log names, and the entries are those above it."""
        problem = ""
        for _ in range(LIVE_TRIES_MAX):
            records = [
                record
                for record in await self._fenced.peek_log(claim, records_max=RECORDS_ALL)
                if record.sequence <= through_sequence
            ]
            if not records or records[-1].sequence < through_sequence:
                problem = f"sequence {through_sequence} is not there"
                continue
            own = await self._lineage_of(claim)
            checkpoint = self._newest_checkpoint(records) or own.checkpoint
            start = records[0].sequence
            if checkpoint is not None:
                start = max(start, checkpoint.position.sequence)
            wanted = [record for record in records if record.sequence > start]
            if len(wanted) != max(0, through_sequence - start):
                problem = f"records above {start} were deleted"
                continue
            if checkpoint is not None:
                image = await self._fenced.get_object(checkpoint.key)
                if image is None:  # A newer one was named meanwhile, and this one deleted.
                    problem = f"the checkpoint {checkpoint.key} is missing"
                    continue
                self._image = (checkpoint.key, image)
            entries = [
                (record.sequence, self._codec.decode(record.payload))
                for record in wanted
                if record.kind is RecordKind.ENTRY
            ]
            return _trimmed(checkpoint, own.history), entries
        raise Corrupt(f"the log {claim.role}/{claim.epoch} cannot be followed: {problem}")


def _trimmed(checkpoint: CheckpointRef | None, history: Sequence[SealedEpoch]) -> Lineage:
    """Drop the epochs that a checkpoint covers, but for the one in which it lies."""
    if checkpoint is None:
        return Lineage(None, tuple(history))
    at = checkpoint.position
    return Lineage(
        checkpoint,
        tuple(e for e in history if e.last_sequence > at.sequence or e.epoch == at.epoch),
    )


def _refuse(record: Record) -> NoReturn:
    raise FormatRefused(
        f"record {record.sequence} of an authority's log is of kind {record.kind.name}; "
        "use the version that wrote it"
    )
