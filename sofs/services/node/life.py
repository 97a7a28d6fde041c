"""One life of a node: an incarnation with its data log, its link, its files and its sessions.

An incarnation is composed once and ends once (R2, R7). It ends when its data log ends (an error of
the disk, or somebody sealed it), when a claim check fails, and when anything unexpected happens in
the data path. Ending is immediate and total: all streams end, nothing that was prepared is
answered, all memory is forgotten. What was acknowledged is in the log, and whoever seals it finds
it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sofs.core.messages import (
    Interface,
    LogInfo,
    PartStateReply,
    RegisterNodeReply,
    WriteParts,
)
from sofs.core.share_table import ShareEntry, ShareTable
from sofs.errors import (
    Fenced,
    InvariantViolation,
    SofsError,
    StoreUnknown,
    Unavailable,
)
from sofs.ids import Epoch, Incarnation, short
from sofs.ports.events import NO_EVENTS, Events
from sofs.ports.log import Claim, FencedStore, LogWriter
from sofs.ports.runtime import Clock, Entropy
from sofs.ports.store import Buffer
from sofs.ports.stream import Stream, Transport
from sofs.ports.trace import NO_RECORDER, Recorder
from sofs.services.channel import Channel
from sofs.services.node.commits import Commits
from sofs.services.node.file_table import FileTable
from sofs.services.node.inbound import Inbound
from sofs.services.node.link import AuthorityLink
from sofs.services.node.metadata import Metadata
from sofs.services.node.open_file import Handle, leaving
from sofs.services.node.parts import PartsOp
from sofs.services.node.read_path import ReadPath
from sofs.services.node.reporter import Reporter
from sofs.services.node.session import Session
from sofs.services.node.write_path import WritePath
from sofs.services.pair import PairProbe
from sofs.services.shares import ShareView
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.node")

SESSIONS_MAX: Final = 4096
NONCE_BYTES: Final = 16
IDLE_CHECK_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node is told. ``name``: of the Ray node, for people. ``share`` and ``volume``: name
    and uuid of the volume that it serves. ``shares``: what is known of the shares; without it there
    is one, named like the volume. ``addresses``: of all nodes of the access point, as last known.
    ``report_corrupt``: gets (file, page, what) of every page whose stored bytes fail their
    checksum. ``dns``: where the DNS parts of the access point take registrations; ``machine``: as
    the leader calls the one that this is."""

    name: str
    share: str = ""
    volume: bytes = b""
    run_id: bytes = b""
    addresses: Callable[[], list[str]] = list
    interfaces: Callable[[], list[Interface]] = list  # Where its clients find a witness.
    report_corrupt: Callable[[int, int, str], None] | None = None
    access_point: str = ""
    dns: Sequence[str] = ()
    machine: str = ""
    shares: ShareView | None = None

    def static_shares(self) -> ShareTable:
        """The shares of a volume while nobody published others."""
        return ShareTable(0, 0, (ShareEntry(self.share, self.share),))


def node_role(incarnation: bytes) -> str:
    """The role of an incarnation's data log."""
    return f"node-{incarnation.hex()}"


class Node:
    """See the module. Made by ``start_life``."""

    def __init__(
        self,
        *,
        clock: Clock,
        transport: Transport,
        fenced: FencedStore,
        config: NodeConfig,
        claim: Claim,
        writer: LogWriter,
        recorder: Recorder = NO_RECORDER,
        pair: PairProbe | None = None,
        events: Events = NO_EVENTS,
    ) -> None:
        self.clock = clock
        self.events = events
        self.recorder = recorder
        self.config = config
        self.log = writer
        self.incarnation = claim.incarnation
        self.ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.sessions: dict[bytes, Session] = {}
        self._streams: dict[Channel, Session] = {}
        self.tasks = Tasks(f"node-{short(claim.incarnation)}", self.end)
        self.link = AuthorityLink(
            clock=clock,
            transport=transport,
            fenced=fenced,
            claim=claim,
            node=config.name,
            tasks=self.tasks,
            crash=self.end,
            own_check=self.check,
            recorder=recorder,
            pair=pair,
        )
        self.commits = Commits(clock, self.link, self.tasks)
        own = LogInfo(0, claim.incarnation, claim.nonce)
        self.table = FileTable(self.link, self.commits, self.tasks, own, self.end)
        self.corrupt_pages = 0
        self.reporter = Reporter(self.link, self.commits, self.table, self.tasks)
        self.reads = ReadPath(fenced.blocks, self.table, self.tasks, self._corrupt)
        self.writes = WritePath(clock, writer, self.table, self.commits, self.reads)
        self.metadata = Metadata(self)
        self.link.inbound = Inbound(self).on_message
        self.link.bound_handles = self.table.bound_handles
        self.link.on_registered = self._registered
        writer.on_end(self.end)
        if config.shares is not None:
            config.shares.on_change(self, self._shares_changed)
        self.link.start()
        self.tasks.spawn(self._idle_check(), "idle-check")

    async def _idle_check(self) -> None:
        """A life that nobody asks anything still learns that its log was sealed."""
        before = -1
        while True:
            await self.clock.sleep_ms(IDLE_CHECK_MS)
            checks = self.log.counters()["checks"]
            if checks == before:
                await self.check()
            before = self.log.counters()["checks"]

    def _registered(self, reply: RegisterNodeReply) -> None:
        self.writes.log_id = reply.log_id
        self.table.registered(reply)

    def _corrupt(self, ino: int, page: int, place: tuple[int, int, int], what: str) -> None:
        self.corrupt_pages += 1
        log.error("$corrupt: %s", what)
        self.reporter.report(ino, page, *place)
        if self.config.report_corrupt is not None:
            self.config.report_corrupt(ino, page, what)

    async def check(self) -> None:
        """The claim check of R3; when it fails, this life is over."""
        try:
            await self.log.check()
        except BaseException as error:
            self.end(error)
            raise

    # Ending
    # ----------------------------------------------------------------------------------------

    def end(self, reason: BaseException) -> None:
        """End this life now, for ``reason``; later reasons change nothing."""
        if self.ended.done():
            return
        self.ended.set_result(reason)
        if self.config.shares is not None:
            self.config.shares.forget(self)
        text = f"this node's life ended: {reason}"
        for session in self._streams.values():
            session.end(text)
        self.link.end()
        self.tasks.cancel()

    async def close(self) -> None:
        """End and wait until nothing of this life runs any more."""
        self.end(Unavailable("the node was closed"))
        for channel in list(self._streams):
            await channel.close()
        await self.tasks.close()
        await self.log.close()

    # Sessions
    # --------------------------------------------------------------------------------------

    async def accept(self, stream: Stream) -> None:
        """Serve one client's stream until it ends."""
        if self.ended.done() or len(self._streams) >= SESSIONS_MAX:
            raise Unavailable(f"this node serves no more than {SESSIONS_MAX} sessions now")
        session = Session(self)
        channel = Channel(
            stream,
            self.clock,
            session.on_message,
            name=f"client {stream.peer}",
            on_crash=self.end,
            check=self.check,
        )
        session.channel = channel
        self._streams[channel] = session
        channel.start()
        try:
            await asyncio.shield(channel.ended)
        finally:
            self._streams.pop(channel, None)
            self._session_ended(session)
            await channel.close()

    def sessions_changed(self, session: Session) -> None:
        """A session is in use: it replaces the client's older one."""
        older = self.sessions.get(session.client)
        if older is not None and older is not session:
            self.end_session(older, "a newer session of the same client replaced this one")
        self.sessions[session.client] = session
        session.tell_established()

    def write_parts(
        self, session: Session, call: int, handle: Handle, body: WriteParts, data: Buffer
    ) -> None:
        """Take one write of several ranges of a client."""
        if handle.leaving:
            session.finished(len(data))
            raise leaving(handle)
        handle.busy += 1
        handle.file.submit(PartsOp(self.writes, session, call, handle, body, data))

    def end_session(self, session: Session, reason: str) -> None:
        """End a session now; its handles are disconnected."""
        session.end(reason)
        self._session_ended(session)

    def _shares_changed(self, table: ShareTable) -> None:
        for session in list(self._streams.values()):
            if not session.shares_changed(table):
                self.end_session(session, f"the share {session.share.name!r} was removed")

    def _session_ended(self, session: Session) -> None:
        session.alive = False
        session.tell_ended()
        session.lose_spans()
        if self.sessions.get(session.client) is session:
            del self.sessions[session.client]
        handles = list(session.handles.values())
        session.handles = {}
        for handle in handles:
            if handle.session is session:
                handle.session = None
            handle.file.sweep()
        if handles and not self.ended.done():
            self.tasks.spawn(self.metadata.report_disconnected(handles), "disconnected")

    # For people
    # ------------------------------------------------------------------------------------

    def describe(self) -> PartStateReply:
        counters = self.log.counters()
        facts = [
            f"log={self.link.log_id}",
            f"authority_epoch={self.link.epoch}",
            f"authority={'connected' if self.link.connected else 'away'}",
            *([f"root_refused={self.link.refused}"] if self.link.refused else []),
            f"authority_calls={self.link.calls}",
            f"sessions={len(self.sessions)}",
            f"handles={len(self.table.handles)}",
            f"files={len(self.table.files)}",
            f"tokens={sum(file.mode != 0 for file in self.table.files.values())}",
            f"tail_records={self.log.durable_sequence - self.commits.applied_sequence}",
            f"commit_batches={self.commits.batches}",
            f"applied={self.commits.applied_sequence}",
            f"durable={self.log.durable_sequence}",
            *(self.config.shares.facts() if self.config.shares is not None else ()),
            f"corrupt_pages={self.corrupt_pages}",
            f"corrupt_reports_waiting={self.reporter.waiting}",
            f"corrupt_reports_dropped={self.reporter.dropped}",
            *(f"log_{name}={value}" for name, value in sorted(counters.items())),
        ]
        return PartStateReply("node", self.config.name, self.incarnation, "serving", facts)


async def start_life(
    *,
    clock: Clock,
    entropy: Entropy,
    transport: Transport,
    fenced: FencedStore,
    config: NodeConfig,
    endpoint: str,
    recorder: Recorder = NO_RECORDER,
    pair: PairProbe | None = None,
    events: Events = NO_EVENTS,
) -> Node:
    """Compose a fresh incarnation: its own role, claimed and with an open log, before it serves.

    Raises StoreUnknown, StoreFailed or DiskFull when the store does not let it; the incarnation is
    then never used again.
    """
    incarnation = Incarnation(entropy.token(16))
    claim = Claim(
        role=node_role(incarnation),
        epoch=Epoch(1),
        incarnation=incarnation,
        nonce=entropy.token(NONCE_BYTES),
        endpoint=endpoint,
        run_id=config.run_id,
        part="node",
    )
    if await fenced.try_claim(claim) is not None:
        raise StoreUnknown(f"{claim.role} is claimed already; draw a fresh incarnation")
    writer = await fenced.open_log(claim, first_sequence=1)
    return Node(
        clock=clock,
        transport=transport,
        fenced=fenced,
        config=config,
        claim=claim,
        writer=writer,
        recorder=recorder,
        pair=pair,
        events=events,
    )


def is_fatal(reason: BaseException) -> bool:
    """A broken rule of the program itself: the process exits, nobody composes a new life."""
    return isinstance(reason, InvariantViolation)


def describe_end(reason: BaseException) -> str:
    if isinstance(reason, Fenced):
        return f"its data log was sealed: {reason}"
    if isinstance(reason, SofsError):
        return str(reason)
    return f"internal error: {reason!r}"
