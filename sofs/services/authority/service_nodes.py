"""The authority's side of the nodes: streams, recall, detach, and sealing those that do not answer.

Theory. A token or a handle leaves a node in one of two ways: the node answers ``Recall`` or
``Detach`` (it drained, and its answer carries every record that the authority does not have), or
its data log is sealed and the tail replayed. "I know of no such token" is no answer (R2): only
*that* incarnation's answer or its seal counts. Sealing is winning claim 2 of the node's data-log
role; from then on the node's own check fails before every acknowledgement and every read reply
(R3), so a node that was only slow or frozen can neither acknowledge nor serve, whatever it
believes.

Evidence (R14). A node is sealed at once when its stream was reset and a new connection is refused
or answered by another incarnation. When it is silent or slow, a limit has to pass first. In both
cases the authority first completes a durable store operation of its own within the limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sofs.core.messages import (
    BoundHandle,
    Commit,
    CommitReply,
    Detach,
    Done,
    HeldLock,
    Hello,
    LockUpdate,
    Message,
    QuerySize,
    Recall,
    SizeReply,
)
from sofs.core.record import DataHeader, RecordKind, unpack_data_header
from sofs.core.trace import NO_CONTEXT, SpanKind
from sofs.errors import (
    Corrupt,
    Fenced,
    FormatRefused,
    OutcomeUnknown,
    ProtocolError,
    SofsError,
    Unavailable,
    WrongIncarnation,
)
from sofs.ids import Epoch, Incarnation
from sofs.ports.log import Claim, Gap, SealedLog
from sofs.ports.stream import Envelope
from sofs.ports.trace import CURRENT, span
from sofs.services.authority.blocked import Blocked, HandleRef, TokenRef
from sofs.services.authority.env import AuthorityEnv, node_role
from sofs.services.authority.group_log import GROUP_ROOM_BYTES, GroupLog
from sofs.services.authority.state import AuthorityState
from sofs.services.authority.story import HandleStory
from sofs.services.channel import Channel, expect, open_channel, within
from sofs.services.tasks import Tasks

T = TypeVar("T")

log = logging.getLogger("sofs.authority")

REGISTER_LIMITS: Final = 4  # A silent node has this many recall limits to register again.
TAIL_RECORD_LOG_BYTES: Final = 512
LOOK_AGAIN_MS: Final = 10  # Between two questions to the host of a node without a stream.


@dataclass(slots=True)
class NodeLink:
    """A registered node: its stream, and who it is."""

    incarnation: bytes
    name: str
    endpoint: str
    log_id: int
    channel: Channel


class Nodes:
    """All nodes of the volume, by incarnation, as this authority's life knows them."""

    def __init__(
        self,
        env: AuthorityEnv,
        incarnation: bytes,
        state: AuthorityState,
        group: GroupLog,
        tasks: Tasks,
        node_left: Callable[[bytes, bool], None],
        story: HandleStory,
    ) -> None:
        self._env = env
        self._incarnation = incarnation
        self._state = state
        self._group = group
        self._tasks = tasks
        self._node_left = node_left
        self._story = story
        # Seals and recalls are shared; their errors belong to those who wait for them.
        self._shared = Tasks("nodes", lambda error: tasks.crash(error, unless=SofsError))
        self._links: dict[bytes, NodeLink] = {}
        self._seals: dict[bytes, asyncio.Task[None]] = {}
        self._seal_traces: dict[bytes, bytes] = {}  # Of the seals under way.
        self._recalls: dict[tuple[int, bytes], asyncio.Task[None]] = {}
        self._looks: dict[bytes, asyncio.Task[bool]] = {}
        self._registered: dict[bytes, asyncio.Future[None]] = {}
        self.seals_done = 0

    def cancel(self) -> None:
        """The life is over."""
        self._shared.cancel()

    def links(self) -> list[NodeLink]:
        return [link for link in self._links.values() if link.channel.alive]

    def link(self, incarnation: bytes) -> NodeLink | None:
        link = self._links.get(incarnation)
        return link if link is not None and link.channel.alive else None

    def replace_stream(self, incarnation: bytes, channel: Channel) -> None:
        """A node registers over ``channel``: its older stream is ended, with all that runs for
        it."""
        older = self._links.get(incarnation)
        if older is not None and older.channel is not channel:
            older.channel.end(Unavailable("the node registered over another stream"))

    def register(self, link: NodeLink) -> None:
        """A node (re)registered: who waits for it goes on."""
        self.replace_stream(link.incarnation, link.channel)
        self._links[link.incarnation] = link
        # Its process runs again: whoever accused it less than a limit ago was too hasty.
        self._env.suspicion.returned(link.name, self._env.clock.monotonic_ms())
        self._wake(link.incarnation)
        self._tasks.spawn(self._watch(link), f"watch {link.name}")

    async def _watch(self, link: NodeLink) -> None:
        """A node whose stream ended registers again or is sealed: nobody else may ever look."""
        CURRENT.set(NO_CONTEXT)  # Not for whom the node registered, once it is gone.
        await asyncio.shield(link.channel.ended)
        if self._links.get(link.incarnation) is link:
            await self.back_or_sealed(link.incarnation)

    async def back_or_sealed(self, incarnation: bytes) -> bool:
        """Return True when the node has a stream again or is sealed: at once when its host says
        that it is gone, after REGISTER_LIMITS limits when it stays silent. A slow store delays, and
        accuses nobody. One look a node at a time, however many wait for it.

        False when its data log cannot be read to its end: what it holds stays held, since nobody
        knows its last acknowledged writes. Whoever needs it tries to seal it again, and gets that
        error; nobody else waits for it.
        """
        return await self._share(self._looks, incarnation, self._look, "look")

    async def _look(self, incarnation: bytes) -> bool:
        """Ask the node's host again and again: a process that is being killed may reset our stream
        a moment before it stops listening, and then resets what connects, without refusing it."""
        clock = self._env.clock
        start = clock.monotonic_ms()
        while self.link(incarnation) is None and self._state.is_live_node(incarnation):
            try:
                if await self.investigate(incarnation):
                    return True
                if clock.monotonic_ms() - start > REGISTER_LIMITS * self.limit_ms(incarnation):
                    await self._accuse(incarnation, silent=True)
                    return True
            except (Corrupt, FormatRefused) as error:
                log.error("$corrupt: the log of node %s: %s", incarnation.hex()[:8], error)
                return False
            except SofsError as error:
                log.warning("node %s: %s", incarnation.hex()[:8], error)
            with contextlib.suppress(Unavailable):
                registered = self._wait_registered(incarnation)
                await within(clock, LOOK_AGAIN_MS, registered, "registration")
        return True

    # Evidence
    # --------------------------------------------------------------------------------------

    async def investigate(self, incarnation: bytes) -> bool:
        """Seal the node if its host says that it is gone; return whether it is sealed now."""
        if await self._is_gone(incarnation):
            await self._accuse(incarnation, silent=False)
            return True
        return False

    async def _is_gone(self, incarnation: bytes) -> bool:
        """Ask the node's endpoint: True when nobody listens there, or another incarnation
        answers."""
        endpoint = self._state.node_endpoint(incarnation)
        if endpoint is None:
            return False
        try:
            channel = await open_channel(
                self._env.transport,
                self._env.clock,
                endpoint,
                "cluster",
                Hello(sender=self._incarnation, target=incarnation),
                _ignore,
                name=f"ping {endpoint}",
                on_crash=_reraise,
                timeout_ms=self._env.settings.recall_ms,
            )
        except WrongIncarnation:
            return True
        except Unavailable as error:
            return error.refused
        except SofsError:
            return False
        await channel.close()
        return False

    def limit_ms(self, incarnation: bytes) -> int:
        env = self._env
        role = self._state.node_name(incarnation) or incarnation.hex()
        return env.suspicion.limit_ms(role, env.settings.recall_ms, env.clock.monotonic_ms())

    async def _accuse(self, incarnation: bytes, *, silent: bool) -> None:
        """Seal a node after our own disk proved that it works within the limit. If it is being
        sealed already, whoever began had that proof."""
        env = self._env
        if incarnation in self._seals:
            await self.seal(incarnation)
            return
        await within(
            env.clock,
            self.limit_ms(incarnation),
            env.fenced.probe_latency(),
            "our own store, before accusing a node",
        )
        if silent and incarnation not in self._seals:
            role = self._state.node_name(incarnation) or incarnation.hex()
            now_ms = env.clock.monotonic_ms()
            env.suspicion.claimed(role, self.limit_ms(incarnation), now_ms)
        await self.seal(incarnation)

    # Sealing
    # ---------------------------------------------------------------------------------------

    async def seal(self, incarnation: bytes) -> None:
        """Seal the node's data log and replay its tail (once, however many ask); returns when the
        result is applied. It becomes durable with the group that any dependent reply waits for."""
        if incarnation in self._seals or self._state.is_live_node(incarnation):
            under_way = self._seal_traces.get(incarnation, NO_CONTEXT)
            self._env.recorder.link(CURRENT.get(), under_way)
            await self._share(self._seals, incarnation, self._seal, "seal")

    async def _share(
        self,
        running: dict[bytes, asyncio.Task[T]],
        incarnation: bytes,
        work: Callable[[bytes], Coroutine[Any, Any, T]],
        what: str,
    ) -> T:
        """Do ``work`` for a node once, however many ask meanwhile, and whoever of them leaves."""
        task = running.get(incarnation)
        if task is None:
            task = self._shared.spawn(work(incarnation), f"{what} {incarnation.hex()[:8]}")
            running[incarnation] = task
            # Not when a waiter goes on: it may have left, and the next one is to try again.
            task.add_done_callback(lambda _: running.pop(incarnation))
        return await asyncio.shield(task)

    async def _seal(self, incarnation: bytes) -> None:
        about = self._state.node_endpoint(incarnation) or ""
        try:
            with span(self._env.recorder, SpanKind.SEAL, note=about) as trace:
                self._seal_traces[incarnation] = trace
                await self._seal_log(incarnation)
        finally:
            self._seal_traces.pop(incarnation, None)

    async def _seal_log(self, incarnation: bytes) -> None:
        env, fenced = self._env, self._env.fenced
        role = node_role(incarnation)
        own = await fenced.read_claim(role, 1)
        if own is None:
            raise OutcomeUnknown(f"the node {incarnation.hex()} registered without a claim")
        seal = Claim(
            role=role,
            epoch=Epoch(2),
            incarnation=Incarnation(self._incarnation),
            nonce=env.entropy.token(16),
            endpoint=env.endpoint,
            run_id=env.settings.run_id,
            part=f"seal by {env.settings.part}",
        )
        # Lost means that an earlier authority won it and died before its record: sealed all the
        # same.
        with span(env.recorder, SpanKind.CLAIM):
            await fenced.try_claim(seal)
        row = self._state.log_of(incarnation)
        if row is None:
            return
        log_id, applied = row
        with span(env.recorder, SpanKind.LINEAGE):
            sealed = await fenced.seal(own, after_sequence=applied, damaged_ok=True)
        lost = [gap for gap in sealed.gaps if gap.last > applied]
        for gap in sealed.gaps:
            log.error("$corrupt: records %d to %d of %s: %s", gap.first, gap.last, role, gap.what)
        # In the reserve of a full disk: what is applied is there already, and who waits for the
        # seal may want to free space.
        records = data_records(sealed)
        await self._group.room_in_reserve(tail_log_bytes(records))
        with self._group.transaction():
            if self._state.is_live_node(incarnation):
                self._state.replay_tail(log_id, records)
                if lost:
                    self._lose(log_id, lost[0])
                kept = self._state.seal_node(incarnation, sealed.last_sequence)
                self._story.fenced(
                    self._state.node_name(incarnation) or "",
                    self._state.node_endpoint(incarnation) or "",
                    kept,
                    len(sealed.records),
                )
        self.seals_done += 1
        self._wake(incarnation)  # Who waits for it to register waits for nobody.
        self._node_left(incarnation, True)
        link = self._links.pop(incarnation, None)
        if link is not None:
            link.channel.end(WrongIncarnation("the node's data log was sealed"))
        log.info(
            "sealed node %s at %d, tail of %d records",
            incarnation.hex()[:8],
            sealed.last_sequence,
            len(sealed.records),
        )

    def _lose(self, log_id: int, gap: Gap) -> None:
        """Acknowledged writes of a node are lost: its files are refused, all others go on."""
        files = self._state.lose_records(
            log_id, gap.first, self._env.settings.part, self._env.clock.wall_ns()
        )
        log.error("$corrupt: %d files may have lost writes: %s", len(files), files[:10])

    # Asking nodes
    # ----------------------------------------------------------------------------------

    async def clear(self, blocked: Blocked) -> None:
        """Do what stands in an operation's way; afterwards the operation is tried again from its
        start."""
        work = [self.recall(token) for token in blocked.recall]
        by_node: dict[bytes, list[HandleRef]] = {}
        for handle in blocked.detach:
            by_node.setdefault(handle.incarnation, []).append(handle)
        work.extend(self.detach(node, handles, blocked.code) for node, handles in by_node.items())
        work.extend(self.seal(incarnation) for incarnation in blocked.seal)
        results = await asyncio.gather(*work, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _ask(
        self, incarnation: bytes, request: Message, what: str
    ) -> tuple[NodeLink, Message] | None:
        """Send a request to a node and return its answer; None when the node was sealed instead.

        A node without a stream has the limit to register again; a node that is gone is sealed as
        soon as its host says so.
        """
        limit = self.limit_ms(incarnation)
        clock = self._env.clock
        start = clock.monotonic_ms()
        while True:
            if not self._state.is_live_node(incarnation):
                return None
            left = limit - (clock.monotonic_ms() - start)
            if left <= 0:
                await self._accuse(incarnation, silent=True)
                return None
            link = self.link(incarnation)
            try:
                if link is None:
                    known = self.back_or_sealed(incarnation)
                    if not await within(clock, left, known, "registration"):
                        await self.seal(incarnation)  # Tells the damage of its log.
                    continue
                asking = link.channel.call(request, trace=CURRENT.get())
                reply, _ = await within(clock, left, asking, what)
            except Unavailable:
                continue
            except Fenced:
                # The node itself found that its data log is sealed: do our half of it.
                await self.seal(incarnation)
                return None
            return link, reply

    async def _wait_registered(self, incarnation: bytes) -> None:
        if self.link(incarnation) is None:
            waiter = self._registered.get(incarnation)
            if waiter is None or waiter.done():
                waiter = asyncio.get_running_loop().create_future()
                self._registered[incarnation] = waiter
            await asyncio.shield(waiter)

    def _wake(self, incarnation: bytes) -> None:
        """A node registered, or never will again."""
        waiter = self._registered.pop(incarnation, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def recall(self, token: TokenRef) -> None:
        """Get a token back: answered, or the holder's log sealed. One recall a token at a time."""
        key = (token.ino, token.incarnation)
        task = self._recalls.get(key)
        if task is None:
            task = self._shared.spawn(self._recall(token), f"recall {token.ino}")
            self._recalls[key] = task
            task.add_done_callback(lambda _: self._recalls.pop(key, None))
        await asyncio.shield(task)

    async def _recall(self, token: TokenRef) -> None:
        request = Recall(token.ino, token.generation)
        with span(self._env.recorder, SpanKind.RECALL, "Recall"):
            answer = await self._ask(token.incarnation, request, f"recall of file {token.ino}")
        if answer is None:
            return
        commit = expect((answer[1], b""), CommitReply).commit
        with self._group.transaction():
            self._state.token_returned(token.ino, token.incarnation, token.generation, commit)

    async def detach(self, incarnation: bytes, handles: Sequence[HandleRef], code: str) -> None:
        """Make a node let go of handles: it drained them and sent everything, or its log is
        sealed. The replies that gave it the handles leave when they are durable, and have to reach
        it before: else it knows of nothing to let go of, and then hears of a handle that lives."""
        await self._group.settled()
        bound = [BoundHandle(handle.handle, handle.generation) for handle in handles]
        with span(self._env.recorder, SpanKind.RECALL, "Detach"):
            answer = await self._ask(incarnation, Detach(bound, code), "detach")
        if answer is None:
            return
        commit = expect((answer[1], b""), CommitReply).commit
        with self._group.transaction():
            left = self._state.detached(bound, incarnation, commit)
            if not code:  # Else they are about to end, and that is told.
                name = self._state.node_name(incarnation) or ""
                self._story.disconnected(left, name, "its client goes on through another node")
        self._node_left(incarnation, False)

    async def update_locks(
        self, ino: int, holders: Sequence[TokenRef], locks: Sequence[HeldLock]
    ) -> None:
        """Return when every other holder of a token of the file knows the new lock table, or is
        sealed."""
        results = await asyncio.gather(
            *(
                self._ask(
                    holder.incarnation,
                    LockUpdate(ino, holder.generation, list(locks)),
                    f"lock table of file {ino}",
                )
                for holder in holders
            ),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
            if result is not None:
                expect((result[1], b""), Done)

    async def query_size(self, holder: TokenRef) -> SizeReply | None:
        """Ask the holder of DIRECT_RW for size and time; None when it was sealed or gave the token
        back."""
        request = QuerySize(holder.ino, holder.generation)
        answer = await self._ask(holder.incarnation, request, f"size of file {holder.ino}")
        return None if answer is None else expect((answer[1], b""), SizeReply)


def data_records(sealed: SealedLog) -> list[tuple[DataHeader, int, int, int, Sequence[int]]]:
    """The data records of a sealed tail, as ``AuthorityState.replay_tail`` takes them."""
    return [
        (unpack_data_header(r.extension), r.sequence, r.segment, r.payload_offset, r.sums)
        for r in sealed.records
        if r.kind is RecordKind.DATA
    ]


def tail_log_bytes(records: Sequence[tuple[DataHeader, int, int, int, Sequence[int]]]) -> int:
    """About what a replayed tail takes in the authority's log: a run a record, the older ones that
    it replaces, with their sums, and a window each."""
    n_bytes = sum(TAIL_RECORD_LOG_BYTES + 3 * 8 * len(sums) for *_, sums in records)
    return min(n_bytes, GROUP_ROOM_BYTES)  # A seal asks for no more than any mutation does.


def check_commit(commit: Commit, log_id: int) -> None:
    """A node speaks for its own log only."""
    if commit.log_id not in (0, log_id):
        raise ProtocolError(f"a commit of log {commit.log_id} came from the owner of log {log_id}")


def _ignore(channel: Channel, envelope: Envelope) -> None:
    return None


def _reraise(error: BaseException) -> None:
    raise error
