"""Bytes that were synced and are others later: in place, on the device.

Three kinds. A *page* of a file (bits flip, or sectors are zeros): its file alone may answer
DATA_CORRUPT from then on. A *record's header* in the log of a living node: when that node is sealed
nobody knows which file the record changed, so each file that it could write may. (Of most records
nobody has any need by then, since the authority applied them. ``tail`` damages one of the others,
and the node dies of the same trouble.) And an object of the authority's own (a record of its log, a
checkpoint, a claim): the volume may stand still until the object is restored from a copy, which
happens at the end of the faults; no file may answer for it.

Only what somebody else names as durable is damaged: a later record of the same log. The last batch
of a log cannot be told from a torn tail by anybody, and is cut (R5); that is a stated limit.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from sofs.core.extents import Extent, unpack_extents
from sofs.core.record import SEGMENT_HEADER_BYTES, Record, RecordKind, decode_record, record_start
from sofs.errors import Corrupt, ObjectNameNotFound
from sofs.sim.disk import ROOT, SimDisk
from sofs.sim.objects import SimObjects
from sofs.sim.world import World
from sofs.storage.claims import decode_claim
from sofs.storage.names import claim_key, number_of, segment_key, slot_key

PAGE: Final = 4096
PATHS: Final = ("/reg-", "/whole-")  # Of files whose workloads take DATA_CORRUPT for an answer.
RECORD_WORKLOADS: Final = ("registers", "whole")
TRIES: Final = 30


@dataclass(frozen=True, slots=True)
class Patch:
    """What was there before."""

    key: str
    offset: int
    data: bytes
    place: Any


class Damager:
    """Damages one root; see the module."""

    def __init__(self, world: World, store: SimDisk | SimObjects) -> None:
        self._world = world
        self._store = store
        self._draw: random.Random = world.draw("damage")
        self._patches: list[Patch] = []
        self.slots = isinstance(store, SimObjects)

    # The kinds ------------------------------------------------------------------------------

    def page(self, state: Any) -> bool:
        """Damage a page that ``state``, the acting authority's, names; whether one was found."""
        rows = state._all("SELECT file,packed FROM extent ORDER BY file,page")
        for _ in range(min(TRIES, len(rows))):
            ino, packed = self._draw.choice(rows)
            extent = next(unpack_extents(packed))
            try:
                path = state.path_of(ino)
            except ObjectNameNotFound:
                continue
            if path.startswith(PATHS) and self._page(state, path, extent):
                return True
        return False

    def _page(self, state: Any, path: str, extent: Extent) -> bool:
        role = f"node-{state._incarnation(extent.log_id).hex()}"
        key = self._key(role, 1, extent.segment)
        records = self._records(role, 1, extent.segment)
        if not self._is_stated(records, extent.sequence):
            return False
        number = self._draw.randrange(extent.pages)
        if not self._hit(key, extent.offset + number * PAGE, PAGE):
            return False
        self._world.damaged.paths[path] = None
        self._world.tell(f"damage: page {extent.page + number} of {path}, in {key}")
        return True

    def record(self) -> bool:
        """Damage the header of a record in the data log of a node that lives; any file may answer
        for it."""
        living = [role for role in self._roles("node-") if self._living(role)]
        for _ in range(TRIES if living else 0):
            role = self._draw.choice(living)
            if self._one_of(role, 1, (RecordKind.DATA,)):
                self._world.damaged.all = True
                return True
        return False

    def tail(self, state: Any) -> str:
        """Damage the header of a record that ``state``, the acting authority's, has not applied
        yet, in the data log of a node that lives; return the node's role in the log's name."""
        roles = [r for r in self._roles("node-") if self._living(r)]
        self._draw.shuffle(roles)
        for role in roles:
            row = state.log_of(bytes.fromhex(role.removeprefix("node-")))
            if row is not None and self._one_of(role, 1, (RecordKind.DATA,), above=row[1]):
                self._world.damaged.all = True
                return role
        return ""

    def own_object(self) -> bool:
        """Damage what only the authority reads; ``restore`` mends it."""
        names = self._store.names(f"{ROOT}/checkpoints") + self._store.names(
            f"{ROOT}/claims/volume"
        )
        if names and self._draw.random() < 0.5:
            key = self._draw.choice(names)
            data = self._store.device(key)
            hit = data and self._hit(key, self._draw.randrange(len(data)), 64, keep=True)
            if hit:
                self._world.tell(f"damage: {key}")
            return bool(hit)
        return self.entry()

    def entry(self) -> bool:
        """Damage a record of the owner's log."""
        epochs = [number_of(name) for name in self._store.names(f"{ROOT}/claims/volume")]
        return bool(epochs) and self._one_of("volume", max(epochs), None, keep=True)

    def restore(self) -> None:
        """Put back what was damaged of the authority's objects, where it still exists."""
        for patch in reversed(self._patches):
            if self._store.place(patch.key) is patch.place:
                self._store.damage(patch.key, patch.offset, patch.data)
        self._patches.clear()

    # How ------------------------------------------------------------------------------------

    def _living(self, role: str) -> bool:
        return self._store.device(f"{ROOT}/{claim_key(role, 2)}") is None

    def _one_of(
        self,
        role: str,
        epoch: int,
        kinds: tuple[RecordKind, ...] | None,
        *,
        keep: bool = False,
        above: int | None = None,
    ) -> bool:
        """Damage the header of one record of a log; with ``above`` of its last segment, behind
        that sequence."""
        folder = self._key(role, epoch, 0).rpartition("/")[0]
        segments = [number_of(name) for name in self._store.names(folder)]
        if not segments:
            return False
        segment = self._draw.choice(segments) if above is None else max(segments)
        records = self._records(role, epoch, segment)
        stated = [
            r
            for r in records
            if (kinds is None or r.kind in kinds)
            and (above is None or r.sequence > above)
            and self._is_stated(records, r.sequence)
        ]
        if not stated:
            return False
        record = self._draw.choice(stated)
        key = self._key(role, epoch, segment)
        if not self._hit(key, record_start(record), 64, keep=keep):
            return False
        self._world.tell(f"damage: record {record.sequence} of {key}")
        return True

    def _hit(self, key: str, offset: int, length: int, *, keep: bool = False) -> bool:
        """Change some of these bytes on the device; False when they are not there yet."""
        data = self._store.device(key)
        if data is None or len(data) <= offset:
            return False
        old = bytes(data[offset : offset + length])
        new = bytearray(old)
        kind = self._draw.choice(("bit", "sector", "zeros", "noise"))
        if kind == "bit":
            new[self._draw.randrange(len(new))] ^= 1 << self._draw.randrange(8)
        elif kind == "sector":
            at = self._draw.randrange(0, len(new), 64)
            new[at : at + 64] = bytes(len(new[at : at + 64]))
        elif kind == "zeros":
            new[:] = bytes(len(new))
        else:
            new[:] = self._draw.randbytes(len(new))
        if new == old:
            return False
        place = self._store.damage(key, offset, bytes(new))
        if place is None:
            return False
        self._world.damaged.happened = True
        if keep:
            self._patches.append(Patch(key, offset, old, place))
        return True

    def _key(self, role: str, epoch: int, segment: int) -> str:
        name = slot_key if self.slots else segment_key
        return f"{ROOT}/{name(role, epoch, segment)}"

    def _roles(self, start: str) -> list[str]:
        return [
            name.rpartition("/")[2]
            for name in self._store.folders(f"{ROOT}/logs")
            if name.rpartition("/")[2].startswith(start)
        ]

    def _records(self, role: str, epoch: int, segment: int) -> list[Record]:
        """What the device holds of one segment, by its headers."""
        claim_data = self._store.device(f"{ROOT}/{claim_key(role, epoch)}")
        data = self._store.device(self._key(role, epoch, segment))
        if not claim_data or data is None:
            return []
        try:
            nonce = decode_claim(bytes(claim_data), role).nonce
        except Corrupt:
            return []  # It is damaged itself.
        found: list[Record] = []
        view, at = memoryview(bytes(data)), SEGMENT_HEADER_BYTES
        while at < len(view):
            record = decode_record(view, at, nonce=nonce, segment=segment, verify_payload=False)
            if record is None:
                break
            found.append(record)
            at = record.end_offset
        return found

    def _is_stated(self, records: list[Record], sequence: int) -> bool:
        """Does a later record name it as durable? On slots each object is whole or damaged."""
        return self.slots or any(
            r.sequence > sequence and r.durable_to >= sequence for r in records
        )
