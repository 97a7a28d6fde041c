"""One life of the leader as the owner of its claim: compare what should run with what runs, and
mend the difference.

Theory. Desired state (slots and placements) is durable before it is acted upon: a part is created
only after the record that says where it belongs was acknowledged under this life's claim, so a
leader that was superseded changes nothing more. Current state is never stored: each round asks the
platform. A part that exists already is adopted, whoever made it. Nothing is forgotten because the
platform does not answer; only an answer in which a machine is missing counts.

The loop runs in guarded stages: an error of the platform or the store ends the round, is kept for
people (``problem``), and the next round comes after a pause that grows while errors last. A part
whose creation did not help is created again with a growing pause of its own. An error that nobody
expected ends the process: then the platform starts another leader, which begins from the store.

Who belongs to the access point is told to its DNS part (``services/dns``): the slots that are held,
each with its machine, once they are durable. Whoever lost its slot is not listed any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sofs.core.entries import Boundary, CheckpointEntry, CheckpointRef, EntryCodec, Lineage
from sofs.core.messages import DnsMember, SetMembers
from sofs.errors import SofsError, Unavailable
from sofs.ids import Position
from sofs.ports.log import Claim, FencedStore, LogWriter
from sofs.ports.platform import Machine, PartOrder, Platform
from sofs.ports.recovery import LogRecovery
from sofs.ports.runtime import Clock, Entropy
from sofs.ports.state import StateDatabase
from sofs.ports.stream import Transport
from sofs.services.authority.group_log import GroupLog
from sofs.services.dns.registrar import Registrar
from sofs.services.leader.plan import DNS, NODE, WITNESS, Placed, assign_slots, place
from sofs.services.leader.state import SCHEMA_VERSION, LeaderState
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.leader")

ROUND_MS: Final = 500
ROUND_BUSY_MS: Final = 100  # While something is missing.
BACKOFF_MS_MAX: Final = 5_000
CREATE_AGAIN_MS: Final = 2_000  # A part that was ordered and does not show up.
CREATE_AGAIN_MS_MAX: Final = 60_000
ALONE_MS: Final = 10_000  # With one machine this long, the resume-key is made there too.
HISTORY_EPOCHS_MAX: Final = 8  # Then the state is written as a checkpoint and old logs go.
SLOTS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class LeaderSettings:
    """What ``sofs up`` tells the leader. ``base_epoch``: highest leader claim that it saw.
    ``take_over``: claim although that claim's leader answers. Ports of nodes and witnesses; 0:
    any. ``dns``: where the DNS part of ``access_point`` takes registrations; "" for none."""

    run_id: bytes
    base_epoch: int = 0
    take_over: bool = False
    wanted_nodes: int = 3
    node_port: int = 0
    witness_port: int = 0
    access_point: str = ""
    dns: str = ""
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


class Reign:
    """See the module. ``ended`` resolves with the reason when this life must act no more."""

    def __init__(
        self,
        env: LeaderEnv,
        claim: Claim,
        database: StateDatabase,
        writer: LogWriter,
        lineage: Lineage,
        on_crash: Callable[[BaseException], None],
        transport: Transport | None = None,
    ) -> None:
        self.env = env
        self.claim = claim
        self.ended: asyncio.Future[SofsError] = asyncio.get_running_loop().create_future()
        self.problem = ""
        self.rounds = 0
        self.missing: list[str] = []
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
        )
        self.state = LeaderState(database)
        self._ordered: dict[str, tuple[int, int]] = {}  # Name -> (ordered at, pause) in ms.
        self._alone_since: int | None = None
        self.roster: SetMembers | None = None
        self.registrar: Registrar | None = None
        if env.settings.dns and transport is not None:
            self.registrar = Registrar(
                env.clock, transport, env.settings.dns, "leader", lambda: self.roster, self._crash
            )
        writer.on_end(self._log_ended)

    # Life
    # ------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Write the lineage: from then on this life owns the state. Then start reconciling."""
        placement = await self._group.write(self._lineage)
        if len(self._lineage.history) >= HISTORY_EPOCHS_MAX:
            await self._checkpoint(Position(self.claim.epoch, placement.sequence))
        self._tasks.spawn(self._reconcile_forever(), "reconcile")
        if self.registrar is not None:
            self._tasks.spawn(self.registrar.run(), "registrar")

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
            try:
                await self._writer.check()
                await self._round()
            except SofsError as error:
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
            self.rounds += 1
            await self.env.clock.sleep_ms(ROUND_BUSY_MS if self.missing else ROUND_MS)

    async def _round(self) -> None:
        platform = self.env.platform
        machines = await platform.machines()
        await self._record(machines)
        self._call_roll()
        parts = self.state.parts()
        running = await platform.parts()
        await self._remove_unwanted(parts, running)
        self.missing = [part.name for part in parts if part.name not in running]
        for part in parts:
            if part.name in running:
                self._ordered.pop(part.name, None)
            elif self._may_order(part.name):
                log.info("creating %s on machine %s", part.name, part.machine)
                await platform.create(self._order(part))

    async def _record(self, machines: Sequence[Machine]) -> None:
        """Decide slots and placements for these machines; durable when this returns."""
        state = self.state
        held, placed = state.slots(), state.parts()
        slots = assign_slots(held, machines, self.env.settings.wanted_nodes)
        dns = bool(self.env.settings.dns)
        parts = place(slots, placed, alone=self._alone(slots), dns=dns)
        parts.sort(key=lambda part: part.name)
        if slots == held and parts == placed:
            return
        await self._group.room()
        moved = {part.name: part.machine for part in placed}
        with self._group.transaction():
            state.set_slots(slots)
            state.set_parts(parts)
        await self._group.settled()
        log.info("slots %s, parts on %d machines", slots, len({p.machine for p in parts}))
        for part in parts:
            if moved.get(part.name, part.machine) != part.machine:
                self._ordered.pop(part.name, None)
                await self.env.platform.remove(part.name)

    def _call_roll(self) -> None:
        """Make the roster for the DNS part anew if somebody came or went; what is recorded is
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

    def _alone(self, slots: Mapping[int, str]) -> bool:
        now = self.env.clock.monotonic_ms()
        if len(slots) != 1:
            self._alone_since = None
            return False
        if self._alone_since is None:
            self._alone_since = now
        return self.env.settings.wanted_nodes == 1 or now - self._alone_since >= ALONE_MS

    async def _remove_unwanted(self, parts: Sequence[Placed], running: Sequence[str]) -> None:
        names = {part.name for part in parts}
        for name in running:
            role = name.rpartition("-")[0]
            if name not in names and role in (NODE, WITNESS):
                log.info("removing %s: no slot is left for it", name)
                await self.env.platform.remove(name)

    def _may_order(self, name: str) -> bool:
        now = self.env.clock.monotonic_ms()
        ordered_at, pause = self._ordered.get(name, (None, CREATE_AGAIN_MS))
        if ordered_at is not None and now - ordered_at < pause:
            return False
        again = pause if ordered_at is None else min(2 * pause, CREATE_AGAIN_MS_MAX)
        self._ordered[name] = (now, again)
        return True

    def _order(self, part: Placed) -> PartOrder:
        settings = self.env.settings
        slot = int(part.name.rpartition("-")[2]) if part.role in (NODE, WITNESS) else 0
        port = {NODE: settings.node_port, WITNESS: settings.witness_port}.get(part.role, 0)
        host = settings.host_of(slot) if slot else "127.0.0.1"
        address = settings.dns if part.role == DNS else f"{host}:{port}"
        return PartOrder(
            name=part.name,
            role=part.role,
            machine=part.machine,
            address=address,
            access_point=tuple(self.access_point()),
            witnesses=tuple(self._addresses(settings.witness_port)),
        )

    def access_point(self) -> list[str]:
        """The addresses of all slots, taken or not: what clients connect to."""
        return self._addresses(self.env.settings.node_port)

    def _addresses(self, port: int) -> list[str]:
        settings = self.env.settings
        return [f"{settings.host_of(s)}:{port}" for s in range(1, settings.wanted_nodes + 1)]
