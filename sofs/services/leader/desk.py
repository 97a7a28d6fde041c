"""What operators want, taken by the leader: shares, machines, volumes.

A change is one transaction of the leader's log with the token of its request; sent again, to this
leader or the next, it is answered without being done again. A change of shares is answered when it
is durable, checked, and published on the root (``services/shares.py``); the parts that go by the
table are told to look, and the answer says which of them did within TELL_MS_MAX. Those that did not
look by themselves within SHARES_LOOK_MS.

Requests are served one after the other: there are a few a day.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sofs.core.messages import (
    AddVolume,
    ChangeMachine,
    ChangeShare,
    MachineInfo,
    MachineList,
    RemoveVolume,
    ShareInfo,
    ShareList,
    VolumeInfo,
    VolumeList,
)
from sofs.core.share_table import ShareEntry, ShareTable, volume_key
from sofs.errors import InvalidParameter, ObjectInUse, SofsError, Unavailable
from sofs.ports.log import FencedStore
from sofs.ports.runtime import Clock
from sofs.ports.stream import Transport
from sofs.services.authority.group_log import GroupLog
from sofs.services.leader.ask import look_at_shares, part_state
from sofs.services.leader.plan import COORDINATOR, NODE, RESUME_KEY, WITNESS, part_name, role_of
from sofs.services.shares import publish

if TYPE_CHECKING:
    from sofs.services.leader.reign import Reign
    from sofs.services.leader.state import LeaderState

log = logging.getLogger("sofs.leader")

CREATE: Final = 1
CHANGE: Final = 2
REMOVE: Final = 3
TELL_MS_MAX: Final = 1_000
OPEN_FACT: Final = "open_handles="  # In what a volume's owner says of itself.
TOKEN_BYTES: Final = 16
MACHINE_NAME_CHARS_MAX: Final = 255


class Desk:
    """See the module."""

    def __init__(
        self,
        reign: Reign,
        transport: Transport,
        group: GroupLog,
        fenced: FencedStore,
        clock: Clock,
    ) -> None:
        self._reign = reign
        self._transport = transport
        self._group = group
        self._fenced = fenced
        self._clock = clock
        self._turn = asyncio.Lock()
        self.table = ShareTable()
        self.published = False  # Is ``table``, on the root, what the database says?
        self.publications = 0

    # Shares
    # -----------------------------------------------------------------------------------------

    async def shares(self) -> ShareList:
        """All shares, as they are published."""
        reply = self._list()
        await self._reign.check()
        return reply

    async def change_share(self, body: ChangeShare) -> ShareList:
        """Do what is asked. Raises InvalidParameter, InvalidName, ObjectNameCollision,
        BadNetworkName, ObjectNameNotFound, LimitReached: nothing was changed; what the log or the
        store says: ask again with the same token."""
        entry = ShareEntry(
            body.share.name, body.share.volume, body.share.read_only, body.share.available
        )
        state = self._state()
        actions: dict[int, Callable[[], None]] = {
            CREATE: lambda: state.create_share(entry),
            CHANGE: lambda: state.change_share(entry),
            REMOVE: lambda: state.remove_share(entry.name),
        }
        action = actions.get(body.action)
        if action is None:
            raise InvalidParameter(f"action {body.action}: 1 create, 2 change, 3 remove")
        async with self._turn:
            if await self._once(body.token, action):
                self.published = False
            if not self.published:
                await self._publish()
            await self._reign.check()
            return await self._tell()

    async def publish(self) -> None:
        """Publish the shares as the database has them."""
        async with self._turn:
            await self._publish()

    async def _publish(self) -> None:
        # After a failure the next try has the next version: nobody knows what became of this one.
        version = self.table.version + 1
        self.published = False
        self.table = ShareTable(self._reign.claim.epoch, version, tuple(self._state().shares()))
        await publish(self._fenced, self.table)
        self.published = True
        self.publications += 1

    def _list(self) -> ShareList:
        shares = [ShareInfo(s.name, s.volume, s.read_only, s.available) for s in self.table.shares]
        return ShareList(self.table.epoch, self.table.version, shares)

    async def _tell(self) -> ShareList:
        """Have every node and witness look; who did is in the reply."""
        reply = self._list()
        parts = [p.name for p in self._state().parts() if p.role in (NODE, WITNESS)]
        order = self.table.order
        seen = await asyncio.gather(*(self._tell_one(name, order) for name in parts))
        reply.reached = [name for name, has_it in zip(parts, seen, strict=True) if has_it]
        reply.waiting = [name for name, has_it in zip(parts, seen, strict=True) if not has_it]
        return reply

    async def _tell_one(self, name: str, order: tuple[int, int]) -> bool:
        facts = self._reign.facts.get(name)
        if facts is None or not facts.address:
            facts = await self._reign.describe(name)
        if not facts.address:
            return False
        try:
            seen = await look_at_shares(self._clock, self._transport, facts.address, TELL_MS_MAX)
        except SofsError as error:
            log.info("%s does not look at the shares yet: %s", name, error)
            return False
        return (seen.epoch, seen.version) >= order

    # Machines and volumes
    # --------------------------------------------------------------------------

    async def machines(self) -> MachineList:
        """All machines that are there, with what is meant for them or still runs there."""
        reign, state = self._reign, self._state()
        avoided = state.avoided()
        slots = {machine: slot for slot, machine in state.slots().items()}
        homes = {part.name: part.machine for part in state.parts()}
        stays = {name: where for name, where in reign.running.items() if role_of(name)}
        reply = MachineList(
            [
                MachineInfo(
                    machine.name,
                    machine.id,
                    slots.get(machine.id, 0),
                    machine.draining,
                    machine.name in avoided,
                    [
                        name
                        for name in {**homes, **stays}
                        if machine.id in (homes.get(name), stays.get(name))
                    ],
                )
                for machine in reign.machines
            ],
            avoided,
        )
        await reign.check()
        return reply

    async def change_machine(self, body: ChangeMachine) -> MachineList:
        """Drain a machine by its name, or let it serve again."""
        if not 0 < len(body.machine) <= MACHINE_NAME_CHARS_MAX:
            raise InvalidParameter("machine: give the name that `sofs node ls` shows")
        async with self._turn:
            await self._once(body.token, lambda: self._state().avoid(body.machine, body.avoided))
        return await self.machines()

    async def add_volume(self, body: AddVolume) -> VolumeList:
        """Serve another volume, and share it under its name."""
        async with self._turn:
            if await self._once(body.token, lambda: self._state().add_volume(body.name)):
                self.published = False
            if not self.published:
                await self._publish()
        return await self.volumes()

    async def remove_volume(self, body: RemoveVolume) -> VolumeList:
        """Serve a volume no more. Raises ObjectNameNotFound, InvalidParameter (the first volume),
        ObjectInUse (what stands against it).

        Its entry in the root's table goes first: from then on no life of a leader takes it in
        again, whatever that life read before. Should this one end before its own record is durable,
        the volume is served until the request comes again; a part of it that starts meanwhile is
        refused. Then the shares are published without it, and nodes that were away find that
        table, and no part of the volume, when they come back."""
        async with self._turn:
            if not self._state().done(body.token):
                self._state().check_removable(body.name)
                if not body.force:
                    await self._check_unused(body.name)
                await self._reign.check()
                await self._fenced.delete_object(volume_key(body.name))
            if await self._once(body.token, lambda: self._state().remove_volume(body.name)):
                self.published = False
            if not self.published:
                await self._publish()
            await self._reign.check()
            await self._tell()
        return await self.volumes()

    async def _check_unused(self, name: str) -> None:
        shares = [share.name for share in self._state().shares() if share.volume == name]
        against = [f"the shares {', '.join(shares)} lead to it"] if shares else []
        handles = await self._open_handles(name)
        if handles is None:
            against.append("its authority does not say whether files are open")
        elif handles:
            against.append(f"{handles} files on it are open")
        if against:
            raise ObjectInUse(
                f"the volume {name!r} is in use: {'; '.join(against)}. `sofs share rm` removes a "
                "share; `sofs volume rm --force` removes the shares, and what is open is lost to "
                "those who have it open"
            )

    async def _open_handles(self, volume: str) -> int | None:
        """How many files of a volume are open, as its owner says; None when nobody says it."""
        names = self._state().volumes()
        for role in (COORDINATOR, RESUME_KEY):
            facts = await self._reign.describe(part_name(role, volume, names))
            if not facts.address:
                continue
            try:
                found = await part_state(self._clock, self._transport, facts.address)
            except SofsError as error:
                log.info("%s of %s does not answer: %s", role, volume, error)
                continue
            for fact in found.facts:
                if fact.startswith(OPEN_FACT):
                    return int(fact.removeprefix(OPEN_FACT))
        return None

    async def volumes(self) -> VolumeList:
        """All volumes, the machines of their parts, and their shares."""
        state = self._state()
        names, shares = state.volumes(), state.shares()
        homes = {part.name: part.machine for part in state.parts()}
        called = {machine.id: machine.name or machine.id for machine in self._reign.machines}

        def home(role: str, volume: str) -> str:
            where = homes.get(part_name(role, volume, names), "")
            return called.get(where, where)

        reply = VolumeList(
            [
                VolumeInfo(
                    name,
                    home(COORDINATOR, name),
                    home(RESUME_KEY, name),
                    [share.name for share in shares if share.volume == name],
                )
                for name in names
            ]
        )
        await self._reign.check()
        return reply

    def _state(self) -> LeaderState:
        """The tables, while this life owns them; Unavailable once it has ended."""
        if self._reign.ended.done():
            raise Unavailable(f"this leader leads no more: {self._reign.ended.result()}")
        return self._reign.state

    async def _once(self, token: bytes, change: Callable[[], None]) -> bool:
        """Make a change durable unless the request with this token was done; was it made?"""
        if len(token) != TOKEN_BYTES:
            raise InvalidParameter(f"a request's token has {TOKEN_BYTES} bytes; draw one")
        if self._state().done(token):
            await self._group.settled()
            return False
        await self._group.room()
        state = self._state()
        with self._group.transaction():
            change()
            state.note(token)
        await self._group.settled()
        return True

    def facts(self) -> list[str]:
        """For people and metrics."""
        return [
            f"shares={len(self.table.shares)}",
            f"shares_version={self.table.epoch}.{self.table.version}",
            f"publications={self.publications}",
        ]
