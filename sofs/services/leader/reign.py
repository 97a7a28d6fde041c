"""One life of the leader as the owner of its claim: compare what should run with what runs, and
mend the difference.

Theory. Desired state is durable before it is acted upon: a part is created or ended only after the
record that says so was acknowledged under this life's claim, and the claim is looked at again
before each action; so a leader that was superseded acts no more (but for one action that it had
begun, which its successor puts right). Current state is never stored: each round asks the platform.
A part that exists already is adopted, whoever made it. Nothing is forgotten because the platform
does not answer; only an answer in which a machine is missing counts.

Stages are guarded each by itself: rounds against the platform, the survey of parts (where do they
run, at which address), and what operators want (``desk``) are tasks of their own, so that a dead
Ray head keeps nobody from changing a share. An error of the platform or the store ends the round,
is kept for people (``problem``), and the next round comes after a pause that grows while errors
last. A part whose creation did not help is created again with a growing pause of its own
(``orders``). An error that nobody expected ends the process: then the platform starts another
leader, which begins from the store.

A node that is to be ended while it runs has its clients moved away first (``partings``).

A machine that is about to leave is left by the leader, too, as soon as no part is meant for it: its
process ends, and the platform starts another elsewhere. A machine that cannot be used
(``elsewhere``) is left alone, and told of.

Who belongs to the access point is told to its DNS parts (``services/dns``): the slots that are
held, each with its machine, once they are durable. Whoever lost its slot is not listed any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final

from sofs.core.entries import Boundary, CheckpointEntry, CheckpointRef, EntryCodec, Lineage
from sofs.core.messages import DnsMember, SetMembers
from sofs.core.share_table import VOLUMES_FOLDER, volume_key
from sofs.core.trace import NO_CONTEXT, SpanKind
from sofs.errors import SofsError, Unavailable
from sofs.ids import Position
from sofs.ports.log import Claim, FencedStore, LogWriter
from sofs.ports.platform import Machine, PartFacts, PartOrder, Platform
from sofs.ports.recovery import LogRecovery
from sofs.ports.runtime import Clock, Entropy
from sofs.ports.state import StateDatabase
from sofs.ports.stream import Transport
from sofs.ports.trace import NO_RECORDER, Recorder, span
from sofs.services.authority.group_log import GroupLog
from sofs.services.dns.registrar import Registrars
from sofs.services.leader.desk import Desk
from sofs.services.leader.orders import AGAIN_MS, Orders
from sofs.services.leader.partings import Partings
from sofs.services.leader.plan import (
    DNS,
    NODE,
    PAIR,
    WITNESS,
    Desired,
    Observed,
    Placed,
    Plan,
    dns_index,
    plan,
    role_of,
    slot_of,
    volume_of,
)
from sofs.services.leader.state import SCHEMA_VERSION, LeaderState
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.leader")

ROUND_MS: Final = 500
ROUND_BUSY_MS: Final = 100  # While something is missing.
BACKOFF_MS_MAX: Final = 5_000
SURVEY_MS: Final = 250  # Between two parts that are asked; those never asked go first...
SURVEY_IDLE_MS: Final = 1_000  # ...and when there are none of these.
CREATE_AGAIN_MS: Final = AGAIN_MS
ALONE_MS: Final = 10_000  # With one machine this long, the resume-key is made there too.
HISTORY_EPOCHS_MAX: Final = 8  # Then the state is written as a checkpoint and old logs go.
SLOTS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class LeaderSettings:
    """What ``sofs up`` tells the leader. ``base_epoch``: highest leader claim that it saw.
    ``take_over``: claim although that claim's leader answers. ``volumes``: of the root's table, the
    first one first. Ports of nodes and witnesses; 0: any. ``dns``: where the DNS parts of
    ``access_point`` take registrations, ``dns-1`` first; there is one part for each."""

    run_id: bytes
    base_epoch: int = 0
    take_over: bool = False
    wanted_nodes: int = 3
    volumes: tuple[str, ...] = ("share",)
    node_port: int = 0
    witness_port: int = 0
    access_point: str = ""
    dns: tuple[str, ...] = ()
    host_of: Callable[[int], str] = lambda slot: f"127.0.0.{10 + slot}"


@dataclass(slots=True)
class LeaderEnv:
    """What a leader is composed of."""

    settings: LeaderSettings
    clock: Clock
    entropy: Entropy
    fenced: FencedStore
    recovery: LogRecovery
    entries: EntryCodec
    new_database: Callable[[], StateDatabase]
    platform: Platform
    recorder: Recorder = NO_RECORDER


@dataclass(slots=True)
class Counters:
    """What a life did, for people and metrics; times in milliseconds."""

    rounds: int = 0
    rounds_failed: int = 0
    round_ms: int = 0
    round_ms_longest: int = 0
    decisions: int = 0
    created: int = 0
    removed: int = 0

    def facts(self) -> list[str]:
        return [f"{name}={getattr(self, name)}" for name in self.__slots__]


class Reign:
    """See the module. ``ended`` resolves with the reason when this life must act no more."""

    def __init__(
        self,
        env: LeaderEnv,
        transport: Transport,
        claim: Claim,
        database: StateDatabase,
        writer: LogWriter,
        lineage: Lineage,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self.env = env
        self.claim = claim
        self.ended: asyncio.Future[SofsError] = asyncio.get_running_loop().create_future()
        self.problem = ""
        self.counters = Counters()
        self.missing: list[str] = []
        self.machines: list[Machine] = []  # Of the last round, ...
        self.elsewhere: list[Machine] = []  # ...and those that cannot be used.
        self.running: dict[str, str] = {}
        self.facts: dict[str, PartFacts] = {}
        self._on_crash = on_crash
        self._tasks = Tasks(f"leader-{claim.epoch}", self._crash)
        self._database = database
        self._writer = writer
        self._lineage = lineage
        self._group = GroupLog(
            database,
            writer,
            env.entries,
            SCHEMA_VERSION,
            self._tasks,
            lambda _placement, _bytes: None,
            env.recorder,
        )
        self.state = LeaderState(database)
        self.desk = Desk(self, transport, self._group, env.fenced, env.clock)
        self._orders = Orders(CREATE_AGAIN_MS)
        self._partings = Partings(env.clock, transport, self._tasks)
        self._alone_since: int | None = None
        self.roster: SetMembers | None = None
        self.registrars = Registrars(
            env.clock, transport, env.settings.dns, "leader", lambda: self.roster, self._crash
        )
        writer.on_end(self._log_ended)

    @property
    def rounds(self) -> int:
        """Rounds that ended well."""
        return self.counters.rounds

    async def check(self) -> None:
        """Return if no successor had claimed at some moment after this call began; else raise."""
        await self._writer.check()

    # Life
    # ------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Write the lineage: from then on this life owns the state. Take in what the root's table
        of volumes has, publish the shares, then start reconciling."""
        placement = await self._group.write(self._lineage)
        if len(self._lineage.history) >= HISTORY_EPOCHS_MAX:
            await self._checkpoint(Position(self.claim.epoch, placement.sequence))
        known = self.state.volumes()
        fresh = [name for name in self.env.settings.volumes if name not in known]
        if known and fresh:  # What was read when the process began may have been removed since.
            there = await self.env.fenced.list_objects(VOLUMES_FOLDER)
            fresh = [name for name in fresh if volume_key(name) in there]
        if fresh:
            await self._group.room()
            with self._group.transaction():
                for name in fresh:
                    self.state.add_volume(name)
            await self._group.settled()
        await self.desk.publish()
        self._tasks.spawn(self._reconcile_forever(), "reconcile")
        self._tasks.spawn(self._survey_forever(), "survey")
        self.registrars.start(self._tasks)

    async def _checkpoint(self, position: Position) -> None:
        """Write the state as an object, name it in the log, and delete what it makes needless
        (R10)."""
        fenced = self.env.fenced
        image = self._database.serialize()
        token = self.env.entropy.token(4).hex()
        key = f"checkpoints/{position.epoch:020d}-{position.sequence:020d}-{token}"
        await fenced.put_object(key, image)
        digest = self.env.recovery.digest(image)
        reference = CheckpointRef(key, position, digest, len(image), SCHEMA_VERSION)
        await self._group.write(CheckpointEntry(reference))
        older = [name for name in await fenced.list_objects("checkpoints") if name < key]
        await self._group.write(Boundary(position, older))
        for name in older:
            await fenced.delete_object(name)
        for sealed in self._lineage.history:
            claim = await fenced.read_claim(self.claim.role, sealed.epoch)
            if claim is not None:
                await fenced.delete_segments(claim, below_segment=2**31)

    def _crash(self, error: BaseException) -> None:
        if isinstance(error, SofsError):
            self.end(error)
            return
        self.end(Unavailable(f"internal error: {error!r}"))
        self._on_crash(error)

    def _log_ended(self, error: BaseException) -> None:
        self.end(error if isinstance(error, SofsError) else Unavailable(repr(error)))

    def end(self, reason: SofsError) -> None:
        """Act no more."""
        if not self.ended.done():
            self.ended.set_result(reason)
            self._group.end(reason)
            self._tasks.cancel()

    async def close(self) -> None:
        self.end(Unavailable("the leader was closed"))
        await self._tasks.close()
        await self._writer.close()
        self._database.close()

    # The loop
    # ----------------------------------------------------------------------------------------

    async def _reconcile_forever(self) -> None:
        backoff = ROUND_MS
        while True:
            began = self.env.clock.monotonic_ms()
            try:
                await self._round()
            except SofsError as error:
                self.counters.rounds_failed += 1
                if self._writer.ended is not None:
                    self._log_ended(self._writer.ended)
                    return
                if str(error) != self.problem:
                    log.warning("a round failed: %s", error)
                self.problem = str(error)
                await self.env.clock.sleep_ms(backoff)
                backoff = min(2 * backoff, BACKOFF_MS_MAX)
                continue
            backoff = ROUND_MS
            self.problem = ""
            counters = self.counters
            counters.rounds += 1
            counters.round_ms = self.env.clock.monotonic_ms() - began
            counters.round_ms_longest = max(counters.round_ms_longest, counters.round_ms)
            await self.env.clock.sleep_ms(ROUND_BUSY_MS if self.missing else ROUND_MS)

    async def _round(self) -> None:
        """Observe, decide, make the decision durable, act. Every action is preceded by a look at
        the claim."""
        platform = self.env.platform
        await self.check()
        if not self.desk.published:
            await self.desk.publish()
        found = await platform.machines()
        names = await platform.parts()
        self.elsewhere = [machine for machine in found if machine.elsewhere]
        self.machines = machines = [machine for machine in found if not machine.elsewhere]
        self.running = running = {name: self._where(name) for name in names}
        step = await self._decide(machines, running)
        self._call_roll()
        self.missing = [part.name for part in step.parts if part.name not in running]
        self._partings.keep(step.remove)
        for name in step.remove:
            if not self._may_end(name, step):
                continue
            await self.check()
            log.info("ending %s", name)
            self._orders.seen(name)
            self.facts.pop(name, None)
            with self._step("RemovePart", name):
                await platform.remove(name)
            self.counters.removed += 1
        for name in names:
            self._orders.seen(name)
        self._orders.keep([part.name for part in step.parts])
        for part in step.create:
            if self._orders.may(part.name, self.env.clock.monotonic_ms()):
                await self.check()
                log.info("creating %s on machine %s", part.name, part.machine)
                self.facts.pop(part.name, None)
                with self._step("CreatePart", part.name):
                    await platform.create(self._order(part))
                self.counters.created += 1
        self._leave_own_machine(step)

    def _step(self, operation: str, about: str) -> AbstractContextManager[bytes]:
        """A span of a round, in a trace of its own."""
        recorder = self.env.recorder
        return span(recorder, SpanKind.LEADER, operation, parent=NO_CONTEXT, note=about)

    def _leave_own_machine(self, step: Plan) -> None:
        """End this process if its machine is about to leave and all others have left it."""
        own = next((machine for machine in self.machines if machine.own), None)
        if own is None or not own.draining or step.leaving or step.remove or self.missing:
            return
        if not any(part.machine == own.id for part in step.parts):
            self._on_crash(Unavailable("this machine is about to leave: the leader leaves it, too"))

    def _may_end(self, name: str, step: Plan) -> bool:
        """A node that runs is ended when its clients have been moved away, or will not move."""
        where = self.running[name]
        gone = bool(where) and where not in [machine.id for machine in self.machines]
        if role_of(name) != NODE or gone:
            return True
        stay = {
            other: facts.address
            for other, facts in self.facts.items()
            if other in self.running and other not in step.leaving and facts.address
        }
        others = [address for other, address in stay.items() if role_of(other) == NODE]
        # A witness that is to be ended, too, still has the registrations of its clients.
        witnesses = [
            facts.address
            for other, facts in self.facts.items()
            if role_of(other) == WITNESS and other in self.running and facts.address
        ]
        facts = self.facts.get(name, PartFacts())
        return self._partings.may_end(name, facts.address, others, witnesses)

    async def _decide(self, machines: list[Machine], running: Mapping[str, str]) -> Plan:
        """Plan the next step; its desired state is durable when this returns."""
        desired = self._desired()
        alone = self._alone(len(machines))
        step = plan(desired, Observed(machines, running, alone))
        if not step.changes(desired):
            return step
        await self._group.room()
        # An operator may have changed what is wanted while we waited.
        desired = self._desired()
        step = plan(desired, Observed(machines, running, alone))
        with self._step("Decide", ""):
            with self._group.transaction():
                self.state.take(step)
            await self._group.settled()
        self.counters.decisions += 1
        moved = [part for part in step.parts if part not in desired.parts]
        for part in moved:
            self._orders.seen(part.name)
        log.info("slots %s; placed %s; leaving %s", step.slots, moved, step.leaving)
        return step

    def _desired(self) -> Desired:
        settings = self.env.settings
        return replace(self.state.desired(settings.wanted_nodes), dns=len(settings.dns))

    def _call_roll(self) -> None:
        """Make the roster for the DNS parts anew if somebody came or went; what is recorded is
        durable now."""
        settings, slots = self.env.settings, self.state.slots()
        members = [
            DnsMember(f"{NODE}-{slot}", machine, [settings.host_of(slot)], settings.node_port)
            for slot, machine in sorted(slots.items())
        ]
        roster = self.roster
        if settings.node_port and (roster is None or roster.members != members):
            version = 1 if roster is None else roster.version + 1
            self.roster = SetMembers(settings.access_point, self.claim.epoch, version, members)

    def _alone(self, machines: int) -> bool:
        now = self.env.clock.monotonic_ms()
        if machines != 1:
            self._alone_since = None
            return False
        if self._alone_since is None:
            self._alone_since = now
        return self.env.settings.wanted_nodes == 1 or now - self._alone_since >= ALONE_MS

    def _order(self, part: Placed) -> PartOrder:
        settings = self.env.settings
        slot = slot_of(part)
        port = {NODE: settings.node_port, WITNESS: settings.witness_port}.get(part.role, 0)
        host = settings.host_of(slot) if slot else "127.0.0.1"
        volumes = self.state.volumes()
        return PartOrder(
            name=part.name,
            role=part.role,
            machine=part.machine,
            address=settings.dns[dns_index(part.name)] if part.role == DNS else f"{host}:{port}",
            volume=volume_of(part, volumes) if part.role in PAIR else volumes[0] if volumes else "",
            access_point=tuple(self.access_point()),
            witnesses=tuple(self._addresses(settings.witness_port)),
        )

    def access_point(self) -> list[str]:
        """The addresses of all slots, taken or not: what clients connect to."""
        return self._addresses(self.env.settings.node_port)

    def _addresses(self, port: int) -> list[str]:
        settings = self.env.settings
        return [f"{settings.host_of(s)}:{port}" for s in range(1, settings.wanted_nodes + 1)]

    # The survey
    # ------------------------------------------------------------------------------------

    def _where(self, name: str) -> str:
        facts = self.facts.get(name)
        return facts.machine if facts is not None else ""

    async def _survey_forever(self) -> None:
        """Ask one part after the other where it runs and listens."""
        turn = 0
        unknown: list[str] = []
        while True:
            await self.env.clock.sleep_ms(SURVEY_MS if unknown else SURVEY_IDLE_MS)
            unknown = [name for name in self.running if name not in self.facts]
            names = sorted(unknown or self.running)
            turn += 1
            if names:
                await self.describe(names[turn % len(names)])

    async def describe(self, name: str) -> PartFacts:
        """Ask a part's process for its facts, and keep them. One that does not answer is "away",
        with what was known of it."""
        known = self.facts.get(name, PartFacts())
        try:
            facts = await self.env.platform.describe(name)
        except SofsError as error:
            return replace(known, state="away", detail=[str(error)])
        if name in self.running:
            self.facts[name] = facts
        return facts
