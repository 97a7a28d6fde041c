"""The active role: the volume's authority while it owns the highest claim.

Theory of operation. Every request of a node is one coroutine that runs the synchronous rules of
``AuthorityState`` inside one transaction. When the rules meet something that another node still
holds, they raise ``Blocked``; the coroutine has it recalled, detached or sealed, and runs the rules
again *from the start*: nothing that was read before an await is believed after it. The result of a
mutation is stored by (client, op id) in the same transaction as its effect (G5). The reply leaves
when the group that holds the transaction is durable and the claim was checked after that (R3, R8);
replies that only read carry ``checked=True`` and wait for the group they saw.

Two copies of one operation (a client that failed over while its first attempt is still waiting for
a recall) meet in ``_in_flight``: the second waits for the first and gets its answer.

What may fail. Any error of the log ends this life (``ended``): all streams close, all memory is
dropped, the part composes a new incarnation that follows whoever claims next, or claims itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from sofs.constants import KIB
from sofs.core import messages as m
from sofs.core.entries import Handover, Lineage
from sofs.core.trace import NO_CONTEXT, SpanKind
from sofs.errors import (
    Expired,
    FileNotAvailable,
    NotSupported,
    ObjectNameNotFound,
    ProtocolError,
    SofsError,
    StaleGeneration,
    Unavailable,
)
from sofs.ports.log import Claim, LogWriter, Placement
from sofs.ports.state import StateDatabase
from sofs.ports.stream import Envelope, Stream
from sofs.ports.trace import CURRENT, span
from sofs.services.authority.blocked import Blocked, TokenRef
from sofs.services.authority.checkpoints import Checkpoints
from sofs.services.authority.commits import logged_bytes
from sofs.services.authority.env import AuthorityEnv
from sofs.services.authority.feed import FollowerFeed
from sofs.services.authority.file_locks import FileLocks
from sofs.services.authority.follower import checkpoint_ref
from sofs.services.authority.group_log import GroupLog
from sofs.services.authority.handle_desk import HandleDesk
from sofs.services.authority.handles import END_HANDLES_MAX
from sofs.services.authority.idle import IdleClients
from sofs.services.authority.opens import without_grant
from sofs.services.authority.reports import FOLLOWER, Reports
from sofs.services.authority.resume import Resumption
from sofs.services.authority.schema import SCHEMA_VERSION
from sofs.services.authority.service_nodes import NodeLink, Nodes, check_commit
from sofs.services.authority.space import SpaceReclaimer
from sofs.services.authority.state import AuthorityState
from sofs.services.authority.story import HandleStory
from sofs.services.authority.turns import Turns
from sofs.services.channel import Channel, check_hello
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.authority")

ROUNDS_MAX: Final = 64  # How often one operation is run again after something was cleared for it.
IDLE_CHECK_MS: Final = 1_000
HAND_BACK_LAG_MAX: Final = 100  # Entries a coordinator may be behind when it asks.
DRAIN_MS_MAX: Final = 100
NEWCOMERS_LEAVE_BYTES: Final = 512 * KIB  # Of the reserve of a full disk; see ``_reclaim``.
OPERATIONS_MAX: Final = 65_536  # In flight on one authority.

Work = Coroutine[Any, Any, m.Message]
Handler = Callable[[NodeLink, Any], Work]


class ActiveAuthority:
    """One life as the owner of a claim. ``ended`` resolves when it must answer nobody any more."""

    def __init__(
        self,
        env: AuthorityEnv,
        claim: Claim,
        database: StateDatabase,
        writer: LogWriter,
        lineage: Lineage,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self.env = env
        self.claim = claim
        self.ended: asyncio.Future[SofsError] = asyncio.get_running_loop().create_future()
        self._on_crash = on_crash
        self._tasks = Tasks(f"authority-{claim.epoch}", self._crash)
        self.state = AuthorityState(database, env.messages)
        self._database = database
        self._lineage = lineage
        self._writer = writer
        base = lineage.history[-1].last_sequence if lineage.history else 0
        self._base_sequence = base
        self.feed = FollowerFeed(
            claim.epoch, base + 1, env.settings.backlog_bytes_max, env.clock, self._tasks
        )
        self.group = GroupLog(
            database,
            writer,
            env.entries,
            SCHEMA_VERSION,
            self._tasks,
            self._logged,
            env.recorder,
        )
        self.story = HandleStory(env.events, self.state, self.group, claim.epoch)
        self.nodes = Nodes(
            env, claim.incarnation, self.state, self.group, self._tasks, self._node_left, self.story
        )
        self.checkpoints = Checkpoints(env, claim, lineage, database, self.group, self.feed)
        self.reports = Reports(env.clock, self.state, self.group, self._run, self.checkpoints.want)
        self.checkpoints.needless_below = self.reports.needless_below
        self.idle = IdleClients(env.clock, self.state, self._run)
        self.space = SpaceReclaimer(env.clock, env.fenced, self.state, self.group)
        self.resume = Resumption(env, self.state, self._tasks, self._release, claim.epoch)
        self.locks = FileLocks(
            env.clock, self._tasks, self.state, self.nodes, self._once, self._run
        )
        self.desk = HandleDesk(self, self._run, self._counted, self._tasks)
        self._channels: dict[Channel, NodeLink | None] = {}
        self._in_flight: dict[tuple[bytes, int], asyncio.Future[m.Message]] = {}
        self._turns = Turns()  # Who may have a file's tokens recalled.
        self._handing_back: asyncio.Future[None] | None = None  # Resolved when it came to nothing.
        self._operations = 0
        self._takeover_trace = CURRENT.get()
        writer.on_end(self._log_ended)

    # Life
    # ------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Write the lineage (then this life may serve), and a new volume's first rows."""
        await self.group.write(self._lineage)
        if self.state.is_empty():
            with self.group.transaction():
                self.state.format(self.env.settings.volume, self.env.clock.wall_ns())
        await self.group.settled()
        CURRENT.set(NO_CONTEXT)  # What runs from here on is no part of the take-over.
        self.story.suspended([handle for handle, _ in self.state.disconnected_handles()])
        self.resume.begin(self.nodes)
        self._tasks.spawn(self.idle.forget(), "forget")
        self._tasks.spawn(self.space.run(), "space")
        self._tasks.spawn(self.space.drop_cut_runs(), "cut-runs")
        self._tasks.spawn(self._idle_check(), "idle-check")
        self._tasks.spawn(self.checkpoints.look_after(), "checkpoint")

    def _crash(self, error: BaseException) -> None:
        self.end(
            error if isinstance(error, SofsError) else Unavailable(f"internal error: {error!r}")
        )
        if not isinstance(error, SofsError):
            self._on_crash(error)

    def _log_ended(self, error: BaseException) -> None:
        self.end(error if isinstance(error, SofsError) else Unavailable(repr(error)))

    def end(self, reason: SofsError) -> None:
        """Stop answering now; memory may hold what never became durable."""
        if self.ended.done():
            return
        self.ended.set_result(reason)
        self.group.end(reason)
        for channel in list(self._channels):
            channel.end(Unavailable(f"this authority's life ended: {reason}"))
        self.nodes.cancel()
        self.desk.cancel()
        self._tasks.cancel()

    async def close(self) -> None:
        self.end(Unavailable("the authority was closed"))
        await self.desk.close()
        await self._tasks.close()
        for channel in list(self._channels):
            await channel.close()
        await self._writer.close()
        self._database.close()

    def _logged(self, placement: Placement, payload: bytes) -> None:
        self.checkpoints.logged(placement.sequence, placement.segment)
        self.feed.logged(placement.sequence, payload)

    async def _idle_check(self) -> None:
        """An owner that nobody asks still learns that it was superseded."""
        while True:
            await self.env.clock.sleep_ms(IDLE_CHECK_MS)
            await self._writer.check()

    # Streams
    # ---------------------------------------------------------------------------------------

    async def accept(self, service: str, stream: Stream) -> None:
        """Serve one stream of a node ("volume") or follower ("resume_key") until it ends."""
        channel = Channel(
            stream,
            self.env.clock,
            self._on_message,
            name=f"{service} {stream.peer}",
            on_crash=self._crash,
            check=self._writer.check,
        )
        self._channels[channel] = None
        channel.start()
        try:
            await asyncio.shield(channel.ended)
        finally:
            self._channels.pop(channel, None)
            await channel.close()

    def _on_message(self, channel: Channel, envelope: Envelope) -> None:
        body = envelope.body
        if channel.remote is None:
            channel.remote = check_hello(envelope, self.claim.incarnation)
            reply = m.HelloReply(channel.remote.protocol_version, self.claim.incarnation)
            channel.reply(envelope.call, reply, checked=True)
            return
        if isinstance(body, m.Follow):
            channel.reply(envelope.call, self.feed.follow(channel, body, self._base_sequence))
        elif isinstance(body, m.Followed):
            assert isinstance(channel.remote, m.Hello)
            self.feed.followed(channel.remote.sender, body)
        elif isinstance(body, m.CheckpointTaken):
            channel.serve(envelope.call, self._name_checkpoint(body))
        elif isinstance(body, m.ReportCorrupt) and self._channels.get(channel) is None:
            channel.serve(envelope.call, self.reports.take(FOLLOWER, body))
        elif isinstance(body, m.HandBack):
            # A task of this life: the follower's stream may end in the middle of it.
            work = self._tasks.spawn(self._hand_back(body), "hand-back")
            channel.serve(envelope.call, _result(work))
        elif isinstance(body, m.PartState):
            channel.reply(envelope.call, self.describe())
        elif isinstance(body, m.Meet | m.MeetEnd) and self.env.pair is not None:
            claim = (self.claim.role, int(self.claim.epoch))
            channel.serve(envelope.call, self.env.pair.answer(body, claim, owner=True))
        else:
            self._on_node_message(channel, envelope)

    def _on_node_message(self, channel: Channel, envelope: Envelope) -> None:
        body = envelope.body
        if isinstance(body, m.RegisterNode):
            work = self._traced(envelope, self._register, channel)
            channel.serve(envelope.call, work, trace=self._takeover_trace)
            return
        link = self._channels.get(channel)
        if link is None:
            raise ProtocolError(f"{type(body).__name__} before RegisterNode")
        if self._operations >= OPERATIONS_MAX:
            raise FileNotAvailable("the authority is at its limit of operations", retry_after_ms=50)
        run = self._handlers().get(type(body))
        if run is None:
            raise NotSupported(f"the volume service has no {type(body).__name__}")
        channel.serve(envelope.call, self._traced(envelope, run, link))

    async def _traced(
        self, envelope: Envelope, run: Callable[[Any, Any], Work], asker: NodeLink | Channel
    ) -> m.Message:
        body = envelope.body
        with span(
            self.env.recorder,
            SpanKind.AUTHORITY,
            type(body).__name__,
            parent=envelope.trace,
            handle=getattr(body, "handle", 0),
        ):
            if isinstance(asker, Channel):
                return await run(asker, body)
            link = asker
            return await self._counted(lambda: run(link, body))

    async def _counted(self, run: Callable[[], Work]) -> m.Message:
        while self._handing_back is not None:
            # Admitted operations finish; new ones wait until this life ends, or goes on.
            await asyncio.shield(self._handing_back)
        self._operations += 1
        try:
            return await run()
        finally:
            self._operations -= 1

    def _handlers(self) -> dict[type[m.Message], Handler]:
        return {
            m.Open: self._open,
            m.Close: self._close,
            m.Reclaim: self._reclaim,
            m.Truncate: self._truncate,
            m.Lock: self.locks.lock,
            m.Unlock: self.locks.unlock,
            m.ChangeLocks: self.locks.change,
            m.Stat: self._stat,
            m.SetInfo: self._set_info,
            m.Mkdir: self._mkdir,
            m.Rmdir: self._rmdir,
            m.Unlink: self._unlink,
            m.Rename: self._rename,
            m.ReadDir: self._read_dir,
            m.WriteFile: self._write_file,
            m.ReadFile: self._read_file,
            m.Abandon: self._abandon,
            m.EndClient: self._end_client,
            m.AcquireToken: self._acquire,
            m.FetchExtents: self._fetch_extents,
            m.CommitRecords: self._commit_records,
            m.Disconnected: self._disconnected,
            m.ReportCorrupt: self._node_reports,
        }

    def _node_left(self, incarnation: bytes, sealed: bool) -> None:
        """Handles of a node were disconnected: all of them when it was sealed."""
        self.resume.orphaned(incarnation if sealed else None)

    # Running the rules
    # -----------------------------------------------------------------------------

    async def _run(
        self,
        rules: Callable[[], m.Message],
        *,
        mutates: bool = True,
        turn_of: int = 0,
        reserved: int | None = None,
    ) -> m.Message:
        """Run synchronous rules in a transaction until nothing blocks them; return their reply when
        everything they saw is durable and checked. ``reserved``: they give something back and log
        about that many bytes; they may use the reserve of a full disk.

        Who needs a file's tokens has a turn of that file, in the order of asking (``turn_of``: from
        the start): else the node that has just given a token back asks for it again first, and who
        waited for it starves.
        """
        turn = await self._turns.take(turn_of) if turn_of else None
        try:
            for _ in range(ROUNDS_MAX):
                if reserved is not None:
                    await self.group.room_in_reserve(reserved)
                elif mutates:
                    await self.group.room()
                try:
                    with self.group.transaction():
                        reply = rules()
                except SofsError:
                    await self.group.settled()  # What the refusal saw must be durable, too.
                    raise
                except Blocked as blocked:
                    if blocked.release:
                        await self._release(blocked.release, blocked.client)
                        self.resume.settled(blocked.release)
                    elif turn is None and blocked.recall:
                        turn = await self._turns.take(blocked.recall[0].ino)
                    else:
                        await self.nodes.clear(blocked)
                    continue
                await self.group.settled()
                return reply
        finally:
            if turn is not None:
                self._turns.give_back(turn)
        raise FileNotAvailable(
            f"others took the file back {ROUNDS_MAX} times in a row", retry_after_ms=20
        )

    async def _once(
        self, caller: m.Caller, rules: Callable[[], m.Message], reserved: int | None = None
    ) -> m.Message:
        """Run a client's mutation exactly once: stored answers are answered again, a copy that
        arrives while the first is running waits for it."""
        key = (caller.client, caller.op_id)
        running = self._in_flight.get(key)
        if running is not None:
            return copy.copy(await asyncio.shield(running))
        future: asyncio.Future[m.Message] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieved)
        self._in_flight[key] = future

        def exactly_once() -> m.Message:
            self._admit_client(caller)
            self.idle.seen(caller.client)
            stored = self.state.recall_result(caller)
            if stored is not None:
                return stored
            reply = rules()
            self.state.store_result(caller, without_grant(reply))
            return reply

        try:
            await self._register_client(caller, reserved)
            reply = await self._run(exactly_once, reserved=reserved)
            future.set_result(without_grant(reply))
            return reply
        except SofsError as error:
            future.set_exception(error)
            raise
        finally:
            if not future.done():
                future.set_exception(Unavailable("the operation was interrupted"))
            self._in_flight.pop(key, None)

    async def _register_client(self, caller: m.Caller, reserved: int | None) -> None:
        """A client's first operation makes its row in a transaction of its own: the row stays even
        if the operation is refused. On a full disk who gives something back is let in."""
        if caller.op_id != 1 or self.state.knows_client(caller.client):
            return

        def rules() -> m.Message:
            self._admit_client(caller)
            return m.Done()

        await self._run(rules, reserved=None if reserved is None else NEWCOMERS_LEAVE_BYTES)

    async def _admit(self, body: m.Message, caller: m.Caller) -> None:
        """Pass the resume gate; an operation that has its stored answer needs no admission (it may
        be the very create whose handle the gate keeps)."""
        if self.resume.online:
            return
        with contextlib.suppress(SofsError):
            if self.state.recall_result(caller) is not None:
                return
        await self.resume.admit(body)

    def _admit_client(self, caller: m.Caller) -> None:
        """A client's row starts with its first operation; an unknown client with a later one has
        been forgotten, and what it resends may have happened: never executed as new."""
        if self.state.knows_client(caller.client):
            return
        if caller.op_id != 1:
            raise Expired("this client's record was dropped; connect again as a new client")
        self.state.register_client(caller.client, caller.principal)

    def _now(self) -> int:
        return self.env.clock.wall_ns()

    # Nodes
    # -----------------------------------------------------------------------------------------

    async def _register(self, channel: Channel, body: m.RegisterNode) -> m.Message:
        assert isinstance(channel.remote, m.Hello)
        if body.incarnation != channel.remote.sender:
            raise ProtocolError("a node registers itself and nobody else")
        if body.met and self.env.pair is not None:
            await self.env.pair.meet_end(body.met)
        seal = await self.env.fenced.read_claim(f"node-{body.incarnation.hex()}", 2)
        if seal is not None:
            await self.nodes.seal(body.incarnation)
            raise StaleGeneration("this incarnation's data log is sealed; start a new one")

        def rules() -> m.Message:
            # What still runs for the older stream must not take effect behind this report of
            # handles: nobody would know of an open that it made.
            self.nodes.replace_stream(body.incarnation, channel)
            before = self.state.handles_of_node(body.incarnation)
            made = self.state.register_node(body)
            kept = dict.fromkeys(self.state.handles_of_node(body.incarnation))
            omitted = [handle for handle in before if handle not in kept]
            self.story.disconnected(omitted, body.node, "its node does not have it any more")
            return made

        reply = await self._run(rules, reserved=0)  # Else what a dead node held is never reclaimed.
        assert isinstance(reply, m.RegisterNodeReply)
        if not self.state.is_live_node(body.incarnation):  # While its registration became durable.
            raise StaleGeneration("this incarnation's data log is sealed; start a new one")
        reply.epoch, reply.incarnation = self.claim.epoch, self.claim.incarnation
        link = NodeLink(body.incarnation, body.node, body.endpoint, reply.log_id, channel)
        self._channels[channel] = link
        self.nodes.register(link)
        self.resume.registered(body.incarnation, [h.handle for h in body.handles])
        return reply

    async def _acquire(self, link: NodeLink, body: m.AcquireToken) -> m.Message:
        return await self._run(
            lambda: m.TokenReply(self.state.acquire_token(body.ino, body.mode, link.incarnation)),
            turn_of=body.ino,
        )

    async def _fetch_extents(self, link: NodeLink, body: m.FetchExtents) -> m.Message:
        return await self._run(
            lambda: self.state.fetch_extents(body, link.incarnation), mutates=False
        )

    async def _commit_records(self, link: NodeLink, body: m.CommitRecords) -> m.Message:
        check_commit(body.commit, link.log_id)

        def rules() -> m.Message:
            self.state.apply_commit(body.commit)
            return m.Done()

        reply = await self._run(rules, reserved=logged_bytes(body.commit))
        self.space.settled(link.log_id, body.commit.settled_below_segment)
        return reply

    async def _disconnected(self, link: NodeLink, body: m.Disconnected) -> m.Message:
        def rules() -> m.Message:
            done = self.state.disconnect(body.handles, link.incarnation)
            self.story.disconnected(done, link.name, "its session ended")
            return m.Done()

        reply = await self._run(rules, reserved=0)
        self.resume.orphaned(None)
        return reply

    async def _node_reports(self, link: NodeLink, body: m.ReportCorrupt) -> m.Message:
        return await self.reports.take(link.name, body)

    # Files
    # -----------------------------------------------------------------------------------------

    async def _open(self, link: NodeLink, body: m.Open) -> m.Message:
        await self._admit(body, body.caller)

        closed: list[int] = []

        def rules() -> m.Message:
            older = self.state.older_opens(body)
            made = self.state.open(body, link.incarnation, self._now(), closed)
            self.story.replaced(body, [pair for pair in older if pair[0] in closed])
            self.story.opened(body, made, link.name)
            return made

        reply = await self._once(body.caller, rules)
        if closed:
            self.resume.settled(closed)
            self.locks.given_back()
        # No await before the reply of the copy that ran: what another one does to the handle has to
        # reach its node behind it.
        if isinstance(reply, m.OpenReply) and reply.grant is None:
            return await self._bind_again(link, body, reply)
        return reply

    async def _bind_again(self, link: NodeLink, body: m.Open, reply: m.OpenReply) -> m.OpenReply:
        """An answered open came again, perhaps through another node: the handle follows its
        client."""
        if self.state.handle_node(reply.handle) == link.incarnation:
            return reply
        item = m.ReclaimItem(reply.handle, body.create_guid)
        answer = await self._run(lambda: self._reclaimed(body.caller, [item], link))
        assert isinstance(answer, m.ReclaimReply)
        result = answer.results[0]
        if result.code:
            raise ObjectNameNotFound("the handle that this open made is gone")
        self.resume.settled([reply.handle])
        # The node must learn of a token that the reclaim raised, or it goes on under the older one.
        return dataclasses.replace(
            reply,
            generation=result.generation,
            info=result.info,
            grant=answer.grants[0] if answer.grants else None,
        )

    async def _close(self, link: NodeLink, body: m.Close) -> m.Message:
        check_commit(body.commit, link.log_id)

        def rules() -> m.Message:
            done = self.state.close(body, link.incarnation, self._now())
            self.story.closed(body, done.info.ino)
            return done

        reply = await self._once(body.caller, rules, logged_bytes(body.commit))
        self.resume.settled([body.handle])
        self.locks.given_back()
        return reply

    async def _reclaim(self, link: NodeLink, body: m.Reclaim) -> m.Message:
        def rules() -> m.Message:
            self._admit_client(body.caller)
            return self._reclaimed(body.caller, body.handles, link)

        # On a full disk a newcomer may be the one who makes space, but many of them may not use up
        # what those who are here need to close and delete.
        known = self.state.knows_client(body.caller.client)
        reply = await self._run(rules, reserved=0 if known else NEWCOMERS_LEAVE_BYTES)
        assert isinstance(reply, m.ReclaimReply)
        self.resume.settled([r.handle for r in reply.results if not r.code])
        return reply

    def _reclaimed(
        self, caller: m.Caller, items: Sequence[m.ReclaimItem], link: NodeLink
    ) -> m.ReclaimReply:
        reply = self.state.reclaim(caller, items, link.incarnation)
        self.story.reconnected(reply.results, link.name)
        return reply

    async def _truncate(self, link: NodeLink, body: m.Truncate) -> m.Message:
        check_commit(body.commit, link.log_id)
        # One that shrinks gives back. Another one may not use up the reserve.
        sizes = [file.size for file in body.commit.files]
        shrinks = not body.size or body.size < max([self.state.size_by_handle(body.handle), *sizes])
        return await self._once(
            body.caller,
            lambda: self.state.truncate(body, link.incarnation, self._now()),
            logged_bytes(body.commit) if shrinks else None,
        )

    async def _set_info(self, link: NodeLink, body: m.SetInfo) -> m.Message:
        """What is set is not sizes, so nobody is asked for his token; but the answer shows one."""
        reply = await self._once(
            body.caller, lambda: self.state.set_info(body, link.incarnation, self._now())
        )
        assert isinstance(reply, m.InfoReply)
        done = reply
        return await self._with_size(lambda: self.state.resized(done, link.incarnation))

    async def _mkdir(self, link: NodeLink, body: m.Mkdir) -> m.Message:
        await self._admit(body, body.caller)
        return await self._once(body.caller, lambda: self.state.mkdir(body, self._now()))

    async def _rmdir(self, link: NodeLink, body: m.Rmdir) -> m.Message:
        await self._admit(body, body.caller)
        return await self._once(body.caller, lambda: self.state.rmdir(body, self._now()), 0)

    async def _unlink(self, link: NodeLink, body: m.Unlink) -> m.Message:
        await self._admit(body, body.caller)
        return await self._once(body.caller, lambda: self.state.unlink(body, self._now()), 0)

    async def _rename(self, link: NodeLink, body: m.Rename) -> m.Message:
        await self._admit(body, body.caller)
        return await self._once(body.caller, lambda: self.state.rename(body, self._now()))

    async def _write_file(self, link: NodeLink, body: m.WriteFile) -> m.Message:
        await self._admit(body, body.caller)
        check_commit(body.commit, link.log_id)
        return await self._once(
            body.caller, lambda: self.state.write_file(body, link.incarnation, self._now())
        )

    async def _read_file(self, link: NodeLink, body: m.ReadFile) -> m.Message:
        return await self._run(lambda: self.state.read_file(body, link.incarnation), mutates=False)

    async def _read_dir(self, link: NodeLink, body: m.ReadDir) -> m.Message:
        return await self._run(lambda: self.state.read_dir(body), mutates=False)

    async def _abandon(self, link: NodeLink, body: m.Abandon) -> m.Message:
        await self.locks.decided(body.caller.client, body.target_op)
        return await self._once(
            body.caller, lambda: self.state.abandon(body.caller, body.target_op), 0
        )

    async def _end_client(self, link: NodeLink, body: m.EndClient) -> m.Message:
        closed: list[int] = []

        def rules() -> m.Message:
            known = self.state.knows_client(body.caller.client)
            closed[:] = self.state.end_client(body.caller, self._now()) if known else []
            self.story.terminated(body.caller.client, closed)
            return m.Done()

        while True:
            reply = await self._run(rules, reserved=0)
            self.resume.settled(closed)
            if len(closed) < END_HANDLES_MAX:
                break
        self.locks.given_back()
        return reply

    async def _stat(self, link: NodeLink, body: m.Stat) -> m.Message:
        return await self._with_size(lambda: self.state.stat(body, link.incarnation))

    async def _with_size(
        self, ask: Callable[[], tuple[m.InfoReply, TokenRef | None]]
    ) -> m.InfoReply:
        """The holder of DIRECT_RW knows the newest size: the asking node itself, or another that is
        asked. ``ask``: what the tables know, and the other."""
        for _ in range(ROUNDS_MAX):
            reply, holder = await self._stat_once(ask)
            if holder is None:
                return reply
            try:
                size = await self.nodes.query_size(holder)
            except StaleGeneration:
                # It dropped the token without giving it back (a truncate does), or it has not
                # arrived there yet: its answer to a recall frees it either way.
                await self.nodes.recall(holder)
                continue
            if size is not None:
                reply.info.size = size.size
                reply.info.modified_ns = max(size.modified_ns, reply.info.modified_ns)
                return reply
        raise FileNotAvailable("the file moved between nodes all the time", retry_after_ms=20)

    async def _stat_once(
        self, ask: Callable[[], tuple[m.InfoReply, TokenRef | None]]
    ) -> tuple[m.InfoReply, TokenRef | None]:
        try:
            return ask()
        finally:
            await self.group.settled()  # What a refusal saw must be durable, too.

    # Handles whose client is away
    # ------------------------------------------------------------------

    async def _release(self, handles: Sequence[int], successor: bytes = b"") -> None:
        """Release handles whose time is over (or in favour of a ``successor``), if they are still
        disconnected."""

        def rules() -> m.Message:
            away = {handle for handle, _ in self.state.disconnected_handles()}
            due = [handle for handle in handles if handle in away]
            tell = self.story.releasing(due, successor)
            self.state.expire(due, self._now())
            tell()
            return m.Done()

        await self._run(rules, reserved=0)
        self.locks.given_back()

    # Checkpoints and handing back
    # ------------------------------------------------------------------

    async def _name_checkpoint(self, body: m.CheckpointTaken) -> m.Message:
        """Log a checkpoint that a follower made."""
        reference = checkpoint_ref(body.checkpoint)
        if reference.position.epoch != self.claim.epoch:
            raise ProtocolError("the checkpoint is of another epoch")
        await self.checkpoints.name(reference)
        return m.Done()

    async def _hand_back(self, body: m.HandBack) -> m.Message:
        """Give the volume to a coordinator in step: stop admitting, finish, log the handover,
        end."""
        follower = self.feed.followers.get(body.incarnation)
        if not self.resume.online or self._handing_back is not None or follower is None:
            return m.HandBackReply(False)
        if self.feed.last_sequence - follower.sequence > HAND_BACK_LAG_MAX:
            return m.HandBackReply(False)
        self._handing_back = asyncio.get_running_loop().create_future()
        start = self.env.clock.monotonic_ms()
        try:
            while self._operations > 0 and self.env.clock.monotonic_ms() - start < DRAIN_MS_MAX:
                await self.env.clock.sleep_ms(1)
            await self.group.settled()
            handover = Handover(body.incarnation, self.feed.last_sequence + 1)
            placement = await self.group.write(handover)
        except SofsError as error:
            log.warning("the volume stays here: %s", error)
            self._handing_back.set_result(None)
            self._handing_back = None
            return m.HandBackReply(False)
        self._tasks.spawn(self._end_soon(), "handed-back")
        return m.HandBackReply(True, self.claim.epoch, placement.sequence)

    async def _end_soon(self) -> None:
        await self.env.clock.sleep_ms(5)
        self.end(Unavailable("the volume was handed back to its coordinator"))

    def describe(self) -> m.PartStateReply:
        lag = self.feed.lag()
        facts = [
            f"epoch={self.claim.epoch}",
            f"phase={self.resume.phase}",
            f"sequence={self.feed.last_sequence}",
            f"follower_lag={'none' if lag is None else lag}",
            f"nodes={len(self.nodes.links())}",
            f"transactions={self.group.transactions}",
            f"groups={self.group.groups}",
            f"seals={self.nodes.seals_done}",
            f"open_handles={self.state.handles_total()}",
            f"segments_deleted={self.space.segments_deleted}",
            *self.reports.facts(),
        ]
        return m.PartStateReply(self.env.settings.part, "", self.claim.incarnation, "active", facts)


async def _result(task: asyncio.Task[m.Message]) -> m.Message:
    return await asyncio.shield(task)


def _retrieved(future: asyncio.Future[m.Message]) -> None:
    if not future.cancelled():
        future.exception()
