"""Coordinator and ResumeKey: one service in two roles, one life after another behind one listener.

Theory of operation. A life starts with a fresh incarnation (R2) and follows the owner of the
highest claim. When the owner is gone it claims the next epoch, derives the lineage from the store
(R4), brings its state to the lineage's end (a follower in step needs only the tail), writes the
lineage as the first record of its own log, and is active. When its log ends, for whatever reason,
the life ends and the next one begins.

Who claims, and when. Whoever was in step when the owner went claims at once. A part that comes cold
(restarted by Ray, or the whole cluster starts) first gives others two or three limits, the
coordinator before the resume-key; after each wait it looks at the claims again, and before it
claims it looks for somebody to probe the root with (``pair``). Two that claim at the same moment do
no harm: one wins the epoch, the other follows it and gives it a fresh limit. Nothing here needs to
be right about who is alive: a claim against a living owner costs a failover and never correctness
(R3).

The coordinator is the volume's home: when the resume-key is the acting owner, the coordinator
follows, and asks for the volume back once it is in step and the gate is ONLINE.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sofs.core import events as e
from sofs.core.entries import Lineage, holds
from sofs.core.messages import (
    CloseHandle,
    HelloReply,
    ListCorrupt,
    ListHandles,
    Meet,
    MeetEnd,
    Message,
    PartState,
    PartStateReply,
)
from sofs.core.trace import NO_CONTEXT, SpanKind, SpanStatus
from sofs.errors import (
    BackendRefused,
    Corrupt,
    DiskFull,
    FileNotAvailable,
    FormatRefused,
    SofsError,
    Unavailable,
)
from sofs.ids import Epoch, Incarnation
from sofs.ports.log import Claim
from sofs.ports.recovery import Replay
from sofs.ports.stream import Envelope, Listener, Stream
from sofs.ports.trace import CURRENT, end_with, span
from sofs.services.authority.env import (
    COORDINATOR,
    VOLUME_ROLE,
    AuthorityEnv,
)
from sofs.services.authority.follower import Follower, FollowerState, Verdict
from sofs.services.authority.service_active import ActiveAuthority
from sofs.services.channel import Channel, check_hello, within
from sofs.services.pair import PairProbe
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.authority")

LOOK_AGAIN_MS: Final = 20
LIFE_BACKOFF_MS: Final = 50
LIFE_BACKOFF_MS_MAX: Final = 2_000
LOADING_TOLD_EVERY_MS: Final = 1_000
REPLAY_AT_ONCE: Final = 256  # Changesets; between them whoever asks is told that it loads.


class AuthorityPart:
    """The process's part: composes lives until it is closed. ``on_fatal`` gets what no restart
    mends."""

    def __init__(self, env: AuthorityEnv, on_fatal: Callable[[BaseException], None]) -> None:
        self._env = env
        self._on_fatal = on_fatal
        self._tasks = Tasks(env.settings.part, self._crash)
        self._listener: Listener | None = None
        self._incarnation = b""
        self._former: dict[bytes, None] = {}
        self._active: ActiveAuthority | None = None
        self._follower: Follower | None = None
        self._taking_over = False
        self._step = ""  # What the take-over does now.
        self._problem = ""  # Why the volume could not be recovered, at the last try.
        self._waits = ""  # Why it cannot serve for now: the disk is full.
        self._lives = 0
        self._trace = NO_CONTEXT  # Of the take-over under way.
        self.takeovers: list[TakeOverTimes] = []
        self.became_active: asyncio.Event = asyncio.Event()

    @property
    def active(self) -> ActiveAuthority | None:
        return self._active

    @property
    def follower_in_step(self) -> bool:
        """Is this part following with everything applied that it was sent at the start?"""
        return self._follower is not None and self._follower.in_step

    @property
    def cold_wait_ms(self) -> int:
        """How long a part that comes cold leaves an existing volume's claim to others."""
        return (2 if self._env.settings.part == COORDINATOR else 3) * self._env.settings.silence_ms

    @property
    def address(self) -> str:
        return self._env.endpoint

    @property
    def incarnation(self) -> bytes:
        return self._incarnation

    async def start(self, address: str) -> str:
        """Listen and begin the first life; returns the bound address."""
        self._listener = await self._env.transport.listen(address, self._accept)
        self._env.endpoint = self._listener.address
        self._tasks.spawn(self._lives_loop(), "lives")
        return self._listener.address

    async def close(self) -> None:
        """End the current life and stop listening; the claim stays, as after a crash."""
        await self._tasks.close()
        if self._active is not None:
            await self._active.close()
        if self._listener is not None:
            await self._listener.close()

    def _crash(self, error: BaseException) -> None:
        log.error("part failed: %r", error, exc_info=error)
        self._on_fatal(error)

    # Streams
    # ---------------------------------------------------------------------------------------

    async def _accept(self, service: str, stream: Stream) -> None:
        if self._active is not None and service in ("volume", "resume_key"):
            await self._active.accept(service, stream)
            return
        # Not the owner: still say who we are, since "another incarnation answers" is evidence.
        channel = Channel(
            stream,
            self._env.clock,
            self._answer_while_passive if service in ("volume", "resume_key") else self._answer,
            name=f"{service} {stream.peer}",
            on_crash=self._crash,
        )
        channel.start()
        try:
            await asyncio.shield(channel.ended)
        finally:
            await channel.close()

    def _answer_while_passive(self, channel: Channel, envelope: Envelope) -> None:
        check_hello(envelope, self._incarnation)
        raise FileNotAvailable("not serving the volume yet", retry_after_ms=LOOK_AGAIN_MS)

    def _answer(self, channel: Channel, envelope: Envelope) -> None:
        if channel.remote is None:
            channel.remote = check_hello(envelope, self._incarnation)
            reply = HelloReply(channel.remote.protocol_version, self._incarnation)
            channel.reply(envelope.call, reply)
        elif isinstance(envelope.body, PartState):
            channel.reply(envelope.call, self.describe())
        elif isinstance(envelope.body, Meet | MeetEnd) and self._env.pair is not None:
            channel.serve(envelope.call, self._answer_probe(self._env.pair, envelope.body))
        elif isinstance(envelope.body, ListCorrupt) and self._active is not None:
            channel.serve(envelope.call, self._active.reports.listed())
        elif isinstance(envelope.body, ListHandles | CloseHandle) and self._active is not None:
            channel.serve(envelope.call, self._active.desk.answer(envelope.body))
        elif isinstance(envelope.body, ListHandles | CloseHandle):
            raise Unavailable("this part does not own the volume now; ask who does")
        else:
            raise FileNotAvailable("this service only tells how the part is")

    async def _answer_probe(self, pair: PairProbe, body: Meet | MeetEnd) -> Message:
        """Answer the two-party probe, whether we own the volume or not."""
        if isinstance(body, MeetEnd):
            return await pair.meet_end(body.token)
        owner = await self._env.fenced.highest_claim(VOLUME_ROLE)
        claim = (VOLUME_ROLE, 0 if owner is None else int(owner.epoch))
        return await pair.meet(body, claim, owner=self._active is not None)

    def describe(self) -> PartStateReply:
        """State of the part, for people and tests."""
        if self._active is not None:
            return self._active.describe()
        state = "taking over" if self._taking_over else "following"
        facts = [f"lives={self._lives}"]
        if self._taking_over:
            facts.append(f"step={self._step}")
        if self._problem:
            facts.append(f"corrupt={self._problem}")
        if self._waits and not (self._follower is not None and self._follower.in_step):
            facts.append(f"waits={self._waits}")
        if self._env.pair is not None and self._env.pair.refusal:
            facts.append(f"root_refused={self._env.pair.refusal}")
        if self._follower is not None:
            facts.append(f"in_step={self._follower.in_step}")
            facts.append(f"position={self._follower.state.position}")
        return PartStateReply(self._env.settings.part, "", self._incarnation, state, facts)

    # Lives
    # -----------------------------------------------------------------------------------------

    async def _lives_loop(self) -> None:
        backoff = LIFE_BACKOFF_MS
        while True:
            started = self._env.clock.monotonic_ms()
            try:
                await self._life()
            except (Corrupt, FormatRefused) as error:
                log.error("$corrupt: the volume cannot be recovered: %s", error)
                self._problem = str(error)
                backoff = LIFE_BACKOFF_MS_MAX
            except BackendRefused as error:
                log.error("%s is refused: %s", self._env.settings.part, error)
                backoff = LIFE_BACKOFF_MS_MAX
            except SofsError as error:
                log.warning("life of %s ended: %s", self._env.settings.part, error)
                if isinstance(error, DiskFull):
                    self._waits = str(error)
            finally:
                await self._drop_life()
            if self._env.clock.monotonic_ms() - started > 5_000:
                backoff = LIFE_BACKOFF_MS
            await self._env.clock.sleep_ms(backoff)
            backoff = min(2 * backoff, LIFE_BACKOFF_MS_MAX)

    async def _drop_life(self) -> None:
        # From here on nobody vouches for the ended incarnation: followers may claim at once.
        if self._incarnation:
            self._former[self._incarnation] = None
            self._incarnation = b""
        active, self._active = self._active, None
        self._taking_over = False
        self.became_active.clear()
        if active is not None:
            await active.close()

    async def _life(self) -> None:
        env = self._env
        self._lives += 1
        self._incarnation = env.entropy.token(16)
        state = FollowerState(env.new_database())
        try:
            claim = await self._follow_until_claimed(state)
            active = await self._take_over(claim, state)
        except BaseException:
            state.database.close()
            raise
        reason = await asyncio.shield(active.ended)
        log.info("epoch %d ended: %s", claim.epoch, reason)

    async def _follow_until_claimed(self, state: FollowerState) -> Claim:
        """Follow one owner after the other until this life has won a claim."""
        env = self._env
        cold_since: tuple[int, int] | None = None
        in_step_with = -1  # Epoch of the owner that was last followed in step.
        while True:
            owner = await env.fenced.highest_claim(VOLUME_ROLE)
            verdict = Verdict.GONE
            if owner is not None and owner.incarnation not in self._former:
                self._follower = Follower(env, self._incarnation, owner, state, self._crash)
                verdict = await self._follower.run()
                if self._follower.was_in_step:
                    in_step_with = owner.epoch
            if verdict is Verdict.UNREACHABLE:
                await env.clock.sleep_ms(LOOK_AGAIN_MS)
                continue
            epoch = 0 if owner is None else owner.epoch
            if in_step_with != epoch and verdict is not Verdict.HANDED:
                now = env.clock.monotonic_ms()
                if cold_since is None or cold_since[0] != epoch:
                    cold_since = (epoch, now)
                if now - cold_since[1] < self._cold_wait_ms(owner):
                    await env.clock.sleep_ms(LOOK_AGAIN_MS)
                    continue
            await self._probe_before_claim(owner)
            claim = await self._try_claim(epoch, silent=verdict is Verdict.SILENT)
            if claim is not None:
                return claim

    def _cold_wait_ms(self, owner: Claim | None) -> int:
        """How long a part that was not following leaves the claim to others."""
        if owner is None and self._env.settings.part == COORDINATOR:
            return 0
        return self.cold_wait_ms

    async def _probe_before_claim(self, owner: Claim | None) -> None:
        """Who never met another part of the volume looks for one before it claims: a part that
        followed has, so a take-over does not pay for this."""
        env = self._env
        if env.pair is None or env.pair.passed:
            return
        asked = [address for address in env.peers() if address != env.endpoint]
        if owner is not None and owner.endpoint != env.endpoint:
            asked.insert(0, owner.endpoint)
        await env.pair.find_peer(
            env.transport, self._incarnation, asked, owner, env.settings.silence_ms, self._crash
        )

    async def _try_claim(self, epoch: int, *, silent: bool) -> Claim | None:
        """Claim the epoch after ``epoch`` unless somebody did; None: look at the claims again."""
        env = self._env
        limit = env.suspicion.limit_ms(
            VOLUME_ROLE, env.settings.silence_ms, env.clock.monotonic_ms()
        )
        try:
            await within(
                env.clock, limit, env.fenced.probe_latency(), "our own store, before a claim"
            )
        except Unavailable:
            return None
        except DiskFull as error:
            # Who cannot write a log must not fence its owner; what was followed is kept.
            log.warning("%s claims nothing: %s", env.settings.part, error)
            self._waits = str(error)
            await env.clock.sleep_ms(limit)
            return None
        claim = Claim(
            role=VOLUME_ROLE,
            epoch=Epoch(epoch + 1),
            incarnation=Incarnation(self._incarnation),
            nonce=env.entropy.token(16),
            endpoint=env.endpoint,
            run_id=env.settings.run_id,
            part=env.settings.part,
        )
        trace = env.recorder.begin(SpanKind.TAKEOVER, handle=claim.epoch)
        env.recorder.note(trace, f"{claim.part}, epoch {claim.epoch}")
        try:
            with span(env.recorder, SpanKind.CLAIM, parent=trace):
                winner = await env.fenced.try_claim(claim)
        except BaseException as error:
            end_with(env.recorder, trace, error)
            raise
        if winner is not None:
            env.recorder.note(trace, f"lost to {winner.part}")
            env.recorder.end(trace, SpanStatus.ERROR)
            return None
        self._trace = trace
        if silent:
            # Whether the owner was only slow is not known here: every such claim counts.
            now_ms = env.clock.monotonic_ms()
            env.suspicion.claimed(VOLUME_ROLE, limit, now_ms)
            env.suspicion.returned(VOLUME_ROLE, now_ms)
        return claim

    async def _take_over(self, claim: Claim, state: FollowerState) -> ActiveAuthority:
        """From a won claim to serving: seal, recover, write the lineage (R4). Nodes pend meanwhile,
        and after LOADING_MS_MAX refuse: the log tells once a second which step takes so long."""
        self._taking_over = True
        self._step = "seal and lineage"
        part, epoch = claim.part, int(claim.epoch)
        self._env.events.emit(e.GATE_LOADING, part=part, epoch=epoch)
        telling = self._tasks.spawn(self._tell_loading(claim), "tell-loading")
        trace, self._trace = self._trace, NO_CONTEXT
        token = CURRENT.set(trace)
        try:
            active = await self._load(claim, state)
        except BaseException as error:
            end_with(self._env.recorder, trace, error)
            if isinstance(error, SofsError):
                failed = e.RESUME_KEY_FAILED
                self._env.events.emit(failed, part=part, epoch=epoch, reason=str(error))
            raise
        else:
            self._env.recorder.end(trace)
            return active
        finally:
            CURRENT.reset(token)
            telling.cancel()

    async def _tell_loading(self, claim: Claim) -> None:
        start = self._env.clock.monotonic_ms()
        while True:
            await self._env.clock.sleep_ms(LOADING_TOLD_EVERY_MS)
            now = self._env.clock.monotonic_ms()
            log.warning("loading epoch %d for %d ms: %s", claim.epoch, now - start, self._step)

    async def _load(self, claim: Claim, state: FollowerState) -> ActiveAuthority:
        env, clock = self._env, self._env.clock
        start = clock.monotonic_ms()
        with span(env.recorder, SpanKind.LINEAGE):
            lineage = await env.recovery.derive_lineage(claim, known=state.known())
        sealed = clock.monotonic_ms()
        with span(env.recorder, SpanKind.REPLAY):
            replay, kept = await self._replay(lineage, state)
        replayed = clock.monotonic_ms()
        self._step = "own log and lineage record"
        writer = await env.fenced.open_log(claim, first_sequence=replay.position.sequence + 1)
        active = ActiveAuthority(env, claim, state.database, writer, lineage, self._crash)
        try:
            await active.begin()
        except BaseException:
            await active.close()
            raise
        self._active = active
        self._taking_over = False
        self._problem = self._waits = ""
        self.became_active.set()
        times = TakeOverTimes(
            claim.epoch,
            kept,
            sealed - start,
            replayed - sealed,
            clock.monotonic_ms() - replayed,
            len(replay.changesets),
        )
        self.takeovers.append(times)
        del self.takeovers[:-100]
        log.info("%s owns epoch %d: %s", env.settings.part, claim.epoch, times)
        return active

    async def _replay(self, lineage: Lineage, state: FollowerState) -> tuple[Replay, bool]:
        """Bring the state to the lineage's end; returns what that took, and whether what was
        followed could be kept."""
        env, clock = self._env, self._env.clock
        position = state.position
        kept = position.sequence > 0 and holds(lineage.history, position)
        self._step = "read of the tail" if kept else "read of the checkpoint and the log"
        replay = await env.recovery.replay(lineage, after=position if kept else None)
        if kept and replay.image is not None:
            kept = False  # The owner had deleted what comes behind it.
        if not kept:
            state.database.close()
            state.database = env.new_database()
            if replay.image is not None:
                self._step = f"load of a checkpoint of {len(replay.image)} bytes"
                state.database.load(replay.image)
        n_changesets = len(replay.changesets)
        for first in range(0, n_changesets, REPLAY_AT_ONCE):
            self._step = f"replay, {first} of {n_changesets} changesets"
            state.database.apply_changesets(replay.changesets[first : first + REPLAY_AT_ONCE])
            await clock.sleep_ms(0)
        return replay, kept


class TakeOverTimes:
    """Where the milliseconds of a take-over went."""

    __slots__ = ("changesets", "epoch", "kept", "lineage_ms", "replay_ms", "seal_ms")

    def __init__(
        self, epoch: int, kept: bool, seal_ms: int, replay_ms: int, lineage_ms: int, changesets: int
    ) -> None:
        self.epoch = epoch
        self.kept = kept
        self.seal_ms = seal_ms
        self.replay_ms = replay_ms
        self.lineage_ms = lineage_ms
        self.changesets = changesets

    def __str__(self) -> str:
        how = "kept what it followed" if self.kept else "loaded from the store"
        return (
            f"{how}; seal {self.seal_ms} ms, replay {self.replay_ms} ms of {self.changesets} "
            f"changesets, lineage {self.lineage_ms} ms"
        )
