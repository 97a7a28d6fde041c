"""Claims, logs and objects of one root, over a store of either kind.

A role's claims are objects ``claims/<role>/<epoch>``, created exclusively and kept for ever: the
highest is the owner, and nothing else says who owns. Epochs are contiguous: a claim is tried only
when the one below it exists, so that probing upward cannot stop at a hole. ``claims/<role>.hint``
names some epoch that once existed; it saves look-ups and is never trusted.

Logs are ``logs/<role>/<epoch>/``; the two kinds of backend differ in how they are written and
sealed (``log``, ``seal``, ``slotlog``). Segment 0 of a log holds its lineage: it is deleted last,
with the whole log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final, TypeVar, cast

from sofs.core.record import Record
from sofs.errors import Corrupt, InvalidParameter, SofsError, StoreFailed
from sofs.ports.log import BlockReader, Claim, LogWriter, SealedLog
from sofs.ports.runtime import Blocking, Clock, Entropy
from sofs.ports.store import AppendStore, Lost, Store
from sofs.storage.ballast import Ballast
from sofs.storage.blocks import SegmentBlocks, SlotBlocks
from sofs.storage.claims import decode_claim, encode_claim
from sofs.storage.log import open_append_log
from sofs.storage.logbase import LogOptions
from sofs.storage.names import claim_folder, claim_key, hint_key, log_folder, number_of
from sofs.storage.seal import peek_append_log, seal_append_log
from sofs.storage.slotlog import SlotLog, peek_slot_log, seal_slot_log
from sofs.storage.walk import Asked

T = TypeVar("T")

SEEN_ROLES_MAX: Final = 4096
ASIDES_MAX: Final = 16  # Steps under way that nobody waits for; beyond, their asker waits.
HINT_LAG_MAX: Final = 16  # Claims probed one by one above a hint before the folder is listed.


class StoreFences:
    """The FencedStore of a root. Made by ``open_fenced``."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        entropy: Entropy,
        blocking: Blocking,
        options: LogOptions | None = None,
        ballast: Ballast | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._blocking = blocking
        self._options = options or LogOptions()
        self._ballast = ballast
        self._seen: dict[str, int] = {}  # Highest epoch of a role whose claim was read.
        self._asides: dict[asyncio.Future[list[object]], None] = {}
        self._append = cast(AppendStore, store) if store.kind == "append" else None
        self._blocks: SegmentBlocks | SlotBlocks = (
            SegmentBlocks(self._append, blocking) if self._append else SlotBlocks(store, blocking)
        )

    @property
    def store(self) -> Store:
        return self._store

    @property
    def blocks(self) -> BlockReader:
        return self._blocks

    # Claims -------------------------------------------------------------------------------------

    async def highest_claim(self, role: str, *, hint: int = 0) -> Claim | None:
        """Return the highest claim; see the port."""
        [claim] = await self._blocking.run("", lambda: self._highest(role, hint))
        return cast("Claim | None", claim)

    def _highest(self, role: str, hint: int) -> Claim | None:
        best = self._read(role, max(hint, self._hint(role)))
        lag = 0
        while best is not None:
            above = self._read(role, best.epoch + 1)
            if above is None:
                return best
            best = above
            lag += 1
            if lag == HINT_LAG_MAX:
                break
        epochs = [number_of(key) for key in self._store.list(claim_folder(role))]
        epoch = max(epochs, default=0)
        found = best if best is not None and best.epoch >= epoch else self._read(role, epoch)
        if found is None and epochs:
            raise Corrupt(f"{claim_key(role, epoch)} was listed and is missing; claims are kept")
        while found is not None:  # A listing may be a little old; names are asked for one by one.
            above = self._read(role, found.epoch + 1)
            if above is None:
                return found
            found = above
        return None

    def _hint(self, role: str) -> int:
        try:
            text = self._store.get(hint_key(role))
            return int(text) if text else 0
        except (ValueError, SofsError):
            return 0  # Only a hint: without it the folder is listed.

    async def read_claim(self, role: str, epoch: int) -> Claim | None:
        """Return the claim of one epoch, or None."""
        [claim] = await self._blocking.run("", lambda: self._read(role, epoch))
        return cast("Claim | None", claim)

    def _read(self, role: str, epoch: int) -> Claim | None:
        if epoch < 1:
            return None
        key = claim_key(role, epoch)
        data = self._store.get(key)
        if data is None:
            return None
        claim = decode_claim(data, key)
        if claim.role != role or claim.epoch != epoch:
            raise Corrupt(f"{key} holds the claim of {claim.role}/{claim.epoch}")
        if len(self._seen) >= SEEN_ROLES_MAX:
            self._seen.clear()
        self._seen[role] = max(epoch, self._seen.get(role, 0))
        return claim

    async def try_claim(self, claim: Claim) -> Claim | None:
        """Try to win ``claim.epoch``; see the port. Raises InvalidParameter when the epoch below
        it is not claimed: epochs are contiguous."""
        [winner] = await self._blocking.run("", lambda: self._relieved(lambda: self._try(claim)))
        if winner is None:
            await self._aside(lambda: self._put_hint(claim))
        return cast("Claim | None", winner)

    def _try(self, claim: Claim) -> Claim | None:
        key = claim_key(claim.role, claim.epoch)
        below = claim.epoch - 1
        known = self._seen.get(claim.role, 0) >= below  # Claims are kept: it is there still.
        if below < 0 or not (known or self._store.get(claim_key(claim.role, below)) is not None):
            raise InvalidParameter(f"{key}: the epoch below is not claimed; claim it first")
        outcome = self._store.put_if_absent(key, encode_claim(claim))
        return decode_claim(outcome.existing, key) if isinstance(outcome, Lost) else None

    def _put_hint(self, claim: Claim) -> None:
        self._store.put_hint(hint_key(claim.role), b"%d\n" % claim.epoch)

    # Logs ---------------------------------------------------------------------------------------

    async def open_log(self, claim: Claim, *, first_sequence: int) -> LogWriter:
        """Open the log of a claim won just now; see the port."""
        if self._append is None:
            return SlotLog(
                self._store, claim, first_sequence, self._blocking, self._clock, self._options
            )
        return await open_append_log(
            self._append, claim, first_sequence, self._blocking, self._options, self._ballast
        )

    async def peek_log(
        self, claim: Claim, *, records_max: int, after_sequence: int = 0
    ) -> Sequence[Record]:
        """Read whole records without sealing; see the port."""
        if self._append is None:
            return await peek_slot_log(
                self._store, claim, self._blocking, records_max=records_max, after=after_sequence
            )
        return await peek_append_log(
            self._append, claim, self._blocking, records_max=records_max, after=after_sequence
        )

    async def seal(
        self,
        claim: Claim,
        *,
        after_sequence: int = 0,
        known_durable: int = 0,
        deleted_ok: bool = False,
        damaged_ok: bool = False,
    ) -> SealedLog:
        """Seal a log; see the port."""
        what = Asked(after_sequence, max(after_sequence, known_durable), deleted_ok, damaged_ok)
        if self._append is None:
            return await seal_slot_log(self._store, claim, self._blocking, self._entropy, what)
        return await seal_append_log(self._append, claim, self._blocking, what)

    async def delete_segments(
        self, claim: Claim, *, below_segment: int, keep_first: bool = False
    ) -> int:
        """Delete segments with a lower number in ascending order and return how many; see the
        port."""
        [count] = await self._blocking.run(
            "", lambda: self._delete(claim, below_segment, keep_first)
        )
        return cast(int, count)

    def _delete(self, claim: Claim, below: int, keep_first: bool) -> int:
        keys = self._store.list(log_folder(claim.role, claim.epoch))
        numbers = sorted((number_of(key), key) for key in keys)
        if self._append is None and numbers:
            # The highest slot is the fence: without it a frozen writer's next slot would be free.
            below = min(below, numbers[-1][0])
        doomed = [key for number, key in numbers if 0 < number < below]
        if numbers and numbers[0][0] == 0 and numbers[-1][0] < below and not keep_first:
            doomed.append(numbers[0][1])
        for key in doomed:
            self._store.delete(key)
        return len(doomed)

    # Objects ------------------------------------------------------------------------------------

    async def probe_latency(self) -> None:
        """One durable create of our own; the object is removed again."""
        key = f"probes/{self._entropy.token(16).hex()}"
        data = self._entropy.token(16)
        await self._blocking.run(
            "", lambda: self._relieved(lambda: self._store.put_if_absent(key, data))
        )
        await self._aside(lambda: self._store.delete(key))  # The evidence is complete.

    async def _aside(self, step: Callable[[], None]) -> None:
        """Do what nobody's answer depends on; a failure is silent. On slots, where it takes a
        request, nobody waits for it."""
        if self._append is not None or len(self._asides) >= ASIDES_MAX:
            with contextlib.suppress(SofsError):
                await self._blocking.run("", step)
            return
        task = asyncio.ensure_future(self._blocking.run("", step))
        self._asides[task] = None
        task.add_done_callback(self._aside_done)

    def _aside_done(self, task: asyncio.Future[list[object]]) -> None:
        self._asides.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, SofsError):
            context = {"message": "a step that nobody waits for failed", "exception": error}
            task.get_loop().call_exception_handler(context)

    def _relieved(self, step: Callable[[], T]) -> T:
        """What fences, starts or seals goes on while the disk is full (see ``ballast``)."""
        return step() if self._ballast is None else self._ballast.relieve(step)

    async def put_object(self, key: str, data: bytes) -> None:
        """Create an object; StoreFailed when the name is taken."""
        [outcome] = await self._blocking.run("", lambda: self._store.put_if_absent(key, data))
        if isinstance(outcome, Lost):
            raise StoreFailed(f"{key} exists already with other contents; choose a fresh name")

    async def get_object(self, key: str) -> bytes | None:
        [data] = await self._blocking.run("", lambda: self._store.get(key))
        return cast("bytes | None", data)

    async def list_objects(self, prefix: str) -> list[str]:
        [keys] = await self._blocking.run("", lambda: self._store.list(prefix))
        return cast("list[str]", keys)

    async def delete_object(self, key: str) -> None:
        await self._blocking.run("", lambda: self._store.delete(key))


def open_fenced(
    store: Store,
    clock: Clock,
    entropy: Entropy,
    blocking: Blocking,
    options: LogOptions | None = None,
    ballast: Ballast | None = None,
) -> StoreFences:
    """Return the claims, logs and objects of an attached root."""
    return StoreFences(store, clock, entropy, blocking, options, ballast)
