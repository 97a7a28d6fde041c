"""The passive role: follow the owner's log with the whole database loaded, and notice when it is
gone.

Theory. The follower applies entries that the owner pushes after they were durable and checked. What
it holds is provisional all the same (R4): after its own claim it keeps its state only if its
position lies inside the lineage that it derives from the store. Following decides nothing; it only
makes take-over quick.

Evidence (R14). The owner is suspected when our stream to it was reset and a new connection is
refused or answered by another incarnation, or when nothing was heard for the limit. Before anything
is claimed the accuser completes a durable store operation of its own within the limit: when it
cannot, the disk is slow for everybody and nobody is accused.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from sofs.constants import CORRUPT_TEXT_BYTES_MAX
from sofs.core.entries import Changeset, CheckpointEntry, CheckpointRef, Lineage
from sofs.core.messages import (
    CheckpointInfo,
    CheckpointTaken,
    CorruptKind,
    CorruptPlace,
    Done,
    Entries,
    Follow,
    Followed,
    FollowReply,
    HandBack,
    HandBackReply,
    Hello,
    LogEntry,
    ReportCorrupt,
)
from sofs.errors import (
    BackendRefused,
    Corrupt,
    ProtocolError,
    SofsError,
    Unavailable,
    WrongIncarnation,
)
from sofs.ids import Position
from sofs.ports.log import Claim
from sofs.ports.recovery import Known
from sofs.ports.state import StateDatabase
from sofs.ports.stream import Envelope
from sofs.services.authority.env import COORDINATOR, VOLUME_ROLE, AuthorityEnv
from sofs.services.channel import Channel, expect, open_channel, within
from sofs.services.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("sofs.authority")

NOWHERE: Final = Position(0, 0)
REPORT_MS_MAX: Final = 5_000
CONNECT_AGAIN_MS: Final = 10
DAMAGED_AGAIN_MS: Final = 200  # Before what could not be read is read again.
APPLY_BATCH_MAX: Final = 256  # Entries applied in one go: the loop stays free for heartbeats.


class Verdict(Enum):
    """Why following ended."""

    GONE = "gone"  # Refused, or another incarnation answers: act at once.
    SILENT = "silent"  # The limit passed.
    HANDED = "handed"  # The owner logged a handover to us.
    UNREACHABLE = "unreachable"  # Neither: look at the claims again.


@dataclass(slots=True)
class FollowerState:
    """What a follower holds: a database as of ``position`` ((0, 0): nothing yet)."""

    database: StateDatabase
    position: Position = NOWHERE
    log_bytes_since_checkpoint: int = 0
    entries_since_checkpoint: int = 0
    checkpoint: CheckpointRef | None = None  # The newest that the log named so far.

    def known(self) -> Known | None:
        """What a take-over need not read again: None when nothing was followed."""
        return Known(self.position, self.checkpoint) if self.position.sequence else None


class Follower:
    """Follows one owner until a verdict."""

    def __init__(
        self,
        env: AuthorityEnv,
        incarnation: bytes,
        owner: Claim,
        state: FollowerState,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._env = env
        self._incarnation = incarnation
        self._owner = owner
        self.state = state
        self._on_crash = on_crash
        self._channel: Channel | None = None
        self._queue: list[tuple[int, LogEntry]] = []
        self._queued: asyncio.Event = asyncio.Event()
        self._next_sequence = 0
        self.in_step = False  # Entries arrive and are applied: take-over needs only the tail.
        self.was_in_step = False
        self._tasks = Tasks("follower", self._crash)
        self._crashed: BaseException | None = None
        self.refused: BackendRefused | None = None  # By the two-party probe.
        self._unreadable = ""  # What could not be read at the last try to catch up.

    def _crash(self, error: BaseException) -> None:
        self._crashed = error
        if self._channel is not None:
            self._channel.end(Unavailable(f"the follower failed: {error!r}"))
        if not isinstance(error, SofsError):
            self._on_crash(error)

    def limit_ms(self) -> int:
        env = self._env
        return env.suspicion.limit_ms(
            VOLUME_ROLE, env.settings.silence_ms, env.clock.monotonic_ms()
        )

    async def run(self) -> Verdict:
        """Follow until the owner is gone, silent or hands over; resets of a living owner are
        mended."""
        try:
            while True:
                verdict = await self._connect()
                if verdict is None:
                    verdict = await self._follow()
                if self.refused is not None:
                    raise self.refused
                if verdict is not None:
                    return verdict
                if self._crashed is not None:
                    return Verdict.UNREACHABLE
        finally:
            self.in_step = False
            await self._tasks.close()
            if self._channel is not None:
                await self._channel.close()

    async def _connect(self) -> Verdict | None:
        """Connect, or say why the owner is to be succeeded. A connect that is neither accepted nor
        refused proves nothing before the limit has passed: a process that is being killed resets
        what connects until its kernel has closed its socket, and refuses it then."""
        hello = Hello(sender=self._incarnation, target=self._owner.incarnation)
        clock = self._env.clock
        end = clock.monotonic_ms() + self.limit_ms()
        while True:
            left = end - clock.monotonic_ms()
            try:
                self._channel = await open_channel(
                    self._env.transport,
                    clock,
                    self._owner.endpoint,
                    "resume_key",
                    hello,
                    self._on_message,
                    name=f"follow {self._owner.part}",
                    on_crash=self._on_crash,
                    timeout_ms=max(1, left),
                )
            except WrongIncarnation:
                return Verdict.GONE
            except Unavailable as error:
                if error.refused:
                    return Verdict.GONE
            except SofsError:
                return Verdict.UNREACHABLE
            else:
                return None
            if clock.monotonic_ms() + CONNECT_AGAIN_MS >= end:
                return Verdict.SILENT
            await clock.sleep_ms(CONNECT_AGAIN_MS)

    def _on_message(self, channel: Channel, envelope: Envelope) -> None:
        body = envelope.body
        if not isinstance(body, Entries):
            return
        for entry in body.entries:
            if entry.sequence != self._next_sequence:
                # Something is missing: what we hold may no longer be a point of the history.
                self.state.position = NOWHERE
                channel.end(ProtocolError(f"entry {self._next_sequence} did not come"))
                return
            self._next_sequence += 1
            self._queue.append((body.epoch, entry))
        self._queued.set()

    async def _follow(self) -> Verdict | None:
        """One connection's worth of following; None means "connect again"."""
        channel = self._channel
        assert channel is not None
        watch = self._tasks.spawn(channel.watch(self.limit_ms), "watch")
        work = self._tasks.spawn(self._work(channel), "apply")
        try:
            await asyncio.wait((watch, work), return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not work.cancelled() and work.exception() is None:
                finished: Verdict | None = work.result()
                return finished
            if channel.alive and watch.done() and self._crashed is None:
                return Verdict.SILENT
            return None if self._crashed is None else Verdict.UNREACHABLE
        finally:
            self.was_in_step = self.was_in_step or self.in_step
            self.in_step = False
            await channel.close()
            watch.cancel()
            work.cancel()

    async def _work(self, channel: Channel) -> Verdict | None:
        try:
            await self._probe(channel)
            await self._start_following(channel)
            self.in_step = True
            asking = self._tasks.spawn(self._ask_back(channel), "hand-back")
            applying = self._tasks.spawn(self._apply_pushed(channel), "push")
            try:
                await asyncio.wait((asking, applying), return_when=asyncio.FIRST_COMPLETED)
            finally:
                applying.cancel()  # Entries of this stream only; the next begins at our position.
                if not asking.done():
                    asking.cancel()
            if asking.done() and not asking.cancelled():
                asked: Verdict = asking.result()
                return asked
            return None
        except SofsError:
            return None

    async def _probe(self, channel: Channel) -> None:
        """The two-party probe with the owner, once a process; who is refused never follows, and so
        never takes over."""
        if self._env.pair is not None:
            claim = (VOLUME_ROLE, int(self._owner.epoch))
            try:
                await self._env.pair.join(channel, self._owner.part or "the authority", claim)
            except BackendRefused as error:
                self.refused = error
                raise

    async def _start_following(self, channel: Channel) -> None:
        """Agree on a position; catch up from the store as often as the owner says that it must
        be."""
        settings = self._env.settings
        while True:
            position = self.state.position
            self._queue.clear()
            self._next_sequence = position.sequence + 1
            request = Follow(
                self._incarnation,
                settings.part,
                self._env.endpoint,
                position.epoch,
                position.sequence,
            )
            reply = expect(
                await within(self._env.clock, 5_000, channel.call(request), "follow"), FollowReply
            )
            if not reply.from_store:
                return
            try:
                await self._catch_up(reply.sequence)
            except Corrupt as error:
                await self._damaged(channel, reply.sequence, error)
                raise

    async def _damaged(self, channel: Channel, through_sequence: int, error: Corrupt) -> None:
        """What the owner would be recovered from cannot be read: tell it, since it still has the
        state in memory. Only when the same is wrong a second time: a living owner may delete while
        it is read, and an object store may list what was there a moment ago."""
        again, self._unreadable = self._unreadable, error.message
        if again == error.message:
            log.error("$corrupt: %s cannot be followed: %s", self._owner.part, error)
        else:
            log.warning("%s cannot be followed for now: %s", self._owner.part, error)
        await self._env.clock.sleep_ms(DAMAGED_AGAIN_MS)  # It is tried again behind this.
        if again != error.message:
            return
        name = re.split("[:;]", again)[0].encode()[:CORRUPT_TEXT_BYTES_MAX].decode(errors="ignore")
        place = CorruptPlace(
            int(CorruptKind.STORE),
            log_id=self._owner.epoch,
            sequence=through_sequence,
            object=name,
        )
        report = channel.call(ReportCorrupt([place]))
        expect(await within(self._env.clock, REPORT_MS_MAX, report, "report of damage"), Done)

    async def _catch_up(self, through_sequence: int) -> None:
        """Load checkpoint and log from the store, up to what the owner said is durable."""
        env = self._env
        self._queue.clear()
        lineage, entries = await env.recovery.read_live(
            self._owner, through_sequence=through_sequence
        )
        replay = await env.recovery.replay(lineage, after=None)
        database = env.new_database()
        if replay.image is not None:
            database.load(replay.image)
        changes = [entry.changes for _, entry in entries if isinstance(entry, Changeset)]
        database.apply_changesets([*replay.changesets, *changes])
        self.state.database.close()
        self.state.database = database
        self.state.checkpoint = lineage.checkpoint
        self.state.entries_since_checkpoint = len(replay.changesets) + len(changes)
        last = max((sequence for sequence, _ in entries), default=replay.position.sequence)
        self.state.position = Position(
            self._owner.epoch if entries else replay.position.epoch, last
        )

    async def _apply_pushed(self, channel: Channel) -> None:
        while channel.alive:
            await self._queued.wait()
            batch, self._queue = self._queue[:APPLY_BATCH_MAX], self._queue[APPLY_BATCH_MAX:]
            if not self._queue:
                self._queued.clear()
            if not batch:
                continue
            changes: list[bytes] = []
            for _, entry in batch:
                decoded = self._env.entries.decode(entry.payload)
                if isinstance(decoded, Changeset):
                    changes.append(decoded.changes)
                elif isinstance(decoded, CheckpointEntry | Lineage):
                    self.state.checkpoint = decoded.checkpoint
                self.state.log_bytes_since_checkpoint += len(entry.payload)
                self.state.entries_since_checkpoint += 1
            self.state.database.apply_changesets(changes)
            epoch, last = batch[-1][0], batch[-1][1].sequence
            self.state.position = Position(epoch, last)
            channel.notify(Followed(epoch, last))
            await self._maybe_checkpoint(channel)

    async def _maybe_checkpoint(self, channel: Channel) -> None:
        env = self._env
        state, settings = self.state, env.settings
        if (
            state.log_bytes_since_checkpoint < settings.checkpoint_every_bytes
            and state.entries_since_checkpoint < settings.checkpoint_every_entries
        ):
            return
        state.log_bytes_since_checkpoint = state.entries_since_checkpoint = 0
        checkpoint = await take_checkpoint(env, self.state.database, self.state.position)
        expect(await channel.call(CheckpointTaken(checkpoint_info(checkpoint))), Done)

    async def _ask_back(self, channel: Channel) -> Verdict:
        """A coordinator that is in step asks the acting resume-key for the volume, after stable
        seconds."""
        env = self._env
        while True:
            await env.clock.sleep_ms(env.settings.hand_back_after_ms)
            if env.settings.part != COORDINATOR or self._owner.part == COORDINATOR or self._queue:
                continue
            reply = expect(await channel.call(HandBack(self._incarnation)), HandBackReply)
            if reply.accepted:
                return Verdict.HANDED


async def take_checkpoint(
    env: AuthorityEnv, database: StateDatabase, position: Position
) -> CheckpointRef:
    """Write the database as an object under a fresh name; it counts only once a log record names
    it."""
    image = database.serialize()
    token = env.entropy.token(4).hex()
    key = f"checkpoints/{position.epoch:020d}-{position.sequence:020d}-{token}"
    reference = CheckpointRef(key, position, env.recovery.digest(image), len(image), 1)
    await env.fenced.put_object(key, image)
    return reference


def checkpoint_info(reference: CheckpointRef) -> CheckpointInfo:
    return CheckpointInfo(
        reference.key,
        reference.position.epoch,
        reference.position.sequence,
        reference.digest,
        reference.n_bytes,
        reference.schema_version,
    )


def checkpoint_ref(info: CheckpointInfo) -> CheckpointRef:
    return CheckpointRef(
        info.key,
        Position(info.epoch, info.sequence),
        info.digest,
        info.n_bytes,
        info.schema_version,
    )
