"""The leader part of a process: one listener, and one life after another behind it.

A life claims the role ``leader`` on the cluster's root, unless another run's leader is there (see
``run``), or one of our own run that answers: then it stands by. What ends a reign (another claim,
an error of the log) begins the next life with a fresh incarnation. A leader whose run was
superseded, or refused, ends for good: it says so, calls ``on_over``, and never claims again.

Nothing depends on the leader while it is away: parts run, clients are served, and what crashes is
restarted by the platform.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from sofs.core.messages import (
    AddVolume,
    ChangeMachine,
    ChangeShare,
    ClusterStatus,
    ClusterStatusReply,
    HelloReply,
    ListMachines,
    ListShares,
    ListVolumes,
    Message,
    PartState,
    PartStateReply,
    PartStatus,
    RemoveVolume,
)
from sofs.core.trace import OPERATION_NUMBERS, SpanKind
from sofs.errors import Corrupt, FormatRefused, NotSupported, SofsError, Unavailable
from sofs.ids import Epoch, Incarnation
from sofs.ports.log import Claim
from sofs.ports.platform import PartFacts
from sofs.ports.stream import Envelope, Listener, Stream, Transport
from sofs.ports.trace import span
from sofs.services.channel import Channel, check_hello, within
from sofs.services.leader.ask import answers, part_state
from sofs.services.leader.reign import LeaderEnv, Reign
from sofs.services.leader.run import ANSWER_MS_MAX, LEADER_ROLE
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.leader")

STAND_BY_MS: Final = 500
LIFE_BACKOFF_MS: Final = 100
LIFE_BACKOFF_MS_MAX: Final = 5_000
ELSEWHERE: Final = "on_other_machines"  # Fact of a leader: machines that cannot be used.
PARTS_ASKED_MAX: Final = 256  # In one status; a cluster with more parts is told in part.


class LeaderPart:
    """See the module. ``on_fatal`` gets what a restart of the process must mend, ``on_over`` is
    called once when this run is over."""

    def __init__(
        self,
        env: LeaderEnv,
        transport: Transport,
        *,
        name: str,
        on_fatal: Callable[[BaseException], None],
        on_over: Callable[[str], None],
    ) -> None:
        self._env = env
        self._transport = transport
        self._name = name
        self._on_fatal = on_fatal
        self._on_over = on_over
        self._tasks = Tasks("leader-part", self._crash)
        self._listener: Listener | None = None
        self._incarnation = b""
        self._former: dict[bytes, None] = {}
        self.reign: Reign | None = None
        self.state = "starting"
        self.problem = ""

    @property
    def address(self) -> str:
        """Where this part listens."""
        return self._listener.address if self._listener is not None else ""

    async def start(self, address: str) -> None:
        """Listen at ``address`` and begin the first life."""
        self._listener = await self._transport.listen(address, self._accept)
        self._tasks.spawn(self._lives(), "lives")

    async def close(self) -> None:
        """End the current life and stop listening; the claim stays, as after a crash."""
        await self._tasks.close()
        reign, self.reign = self.reign, None
        if reign is not None:
            await reign.close()
        if self._listener is not None:
            await self._listener.close()

    def _crash(self, error: BaseException) -> None:
        self._on_fatal(error)

    # Lives
    # -----------------------------------------------------------------------------------------

    async def _lives(self) -> None:
        backoff = LIFE_BACKOFF_MS
        while True:
            try:
                if not await self._life():
                    return
                backoff = LIFE_BACKOFF_MS
            except (Corrupt, FormatRefused) as error:
                log.error("the leader's state cannot be recovered: %s", error)
                self.problem = str(error)
                backoff = LIFE_BACKOFF_MS_MAX
            except SofsError as error:
                log.warning("a life of the leader ended: %s", error)
                self.problem = str(error)
            await self._env.clock.sleep_ms(backoff)
            backoff = min(2 * backoff, LIFE_BACKOFF_MS_MAX)

    async def _life(self) -> bool:
        """Stand by, claim, reign; returns whether another life may follow."""
        env = self._env
        if self._incarnation:
            self._former[self._incarnation] = None
        self._incarnation = env.entropy.token(16)
        claim = await self._claim()
        if claim is None:
            return False
        self.state = "recovering"
        reign = await self._recover(claim)
        self.reign, self.state, self.problem = reign, "leading", ""
        log.info("leading epoch %d of run %s", claim.epoch, claim.run_id.hex()[:8])
        try:
            reason = await reign.ended
            log.warning("epoch %d ended: %s", claim.epoch, reason)
            self.problem = str(reason)
        finally:
            self.reign, self.state = None, "starting"
            await reign.close()
        return True

    async def _claim(self) -> Claim | None:
        """Win the next epoch; None when this run is over."""
        env = self._env
        while True:
            owner = await env.fenced.highest_claim(LEADER_ROLE)
            if owner is not None and owner.incarnation not in self._former:
                over = await self._judge(owner)
                if over:
                    self._end_for_good(over)
                    return None
                if self.state == "standby":
                    await env.clock.sleep_ms(STAND_BY_MS)
                    continue
            epoch = 0 if owner is None else owner.epoch
            await within(
                env.clock,
                ANSWER_MS_MAX,
                env.fenced.probe_latency(),
                "our own store, before a claim",
            )
            claim = Claim(
                role=LEADER_ROLE,
                epoch=Epoch(epoch + 1),
                incarnation=Incarnation(self._incarnation),
                nonce=env.entropy.token(16),
                endpoint=self.address,
                run_id=env.settings.run_id,
                part="leader",
            )
            if await env.fenced.try_claim(claim) is None:
                return claim

    async def _judge(self, owner: Claim) -> str:
        """Return why this run is over, or "" and set whether to stand by."""
        settings = self._env.settings
        ours = owner.run_id == settings.run_id
        if not ours and owner.epoch > settings.base_epoch:
            self.state = "superseded"
            return f"run {owner.run_id.hex()[:8]} took the cluster over with epoch {owner.epoch}"
        there = await answers(self._env.clock, self._transport, owner)
        if not ours and there and not settings.take_over:
            self.state = "refused"
            return f"the leader of run {owner.run_id.hex()[:8]} answers at {owner.endpoint}"
        self.state = "standby" if ours and there else "starting"
        return ""

    def _end_for_good(self, reason: str) -> None:
        log.error("this run is over: %s", reason)
        self.problem = reason
        self._on_over(reason)

    async def _recover(self, claim: Claim) -> Reign:
        """From a won claim to leading: seal, replay, write the lineage (R4)."""
        env = self._env
        lineage = await env.recovery.derive_lineage(claim)
        replay = await env.recovery.replay(lineage, after=None)
        database = env.new_database()
        if replay.image is not None:
            database.load(replay.image)
        database.apply_changesets(replay.changesets)
        writer = await env.fenced.open_log(claim, first_sequence=replay.position.sequence + 1)
        reign = Reign(env, self._transport, claim, database, writer, lineage, self._crash)
        try:
            await reign.begin()
        except BaseException:
            await reign.close()
            raise
        return reign

    # The cluster service
    # -----------------------------------------------------------------------------

    async def _accept(self, service: str, stream: Stream) -> None:
        channel = Channel(
            stream,
            self._env.clock,
            self._on_message,
            name=f"{service} {stream.peer}",
            on_crash=self._crash,
        )
        channel.start()
        try:
            await channel.ended
        finally:
            await channel.close()

    def _on_message(self, channel: Channel, envelope: Envelope) -> None:
        body = envelope.body
        if channel.remote is None:
            channel.remote = check_hello(envelope, self._incarnation)
            reply = HelloReply(channel.remote.protocol_version, self._incarnation, self._name)
            channel.reply(envelope.call, reply)
        elif isinstance(body, PartState):
            channel.reply(envelope.call, self.describe())
        elif isinstance(body, ClusterStatus):
            channel.serve(envelope.call, self.status())
        else:
            channel.serve(envelope.call, self._traced(self._request(body), envelope))

    async def _traced(self, work: Coroutine[Any, Any, Message], envelope: Envelope) -> Message:
        """A change that an operator wants is a span; looking is none."""
        name = type(envelope.body).__name__
        if name not in OPERATION_NUMBERS:
            return await work
        with span(self._env.recorder, SpanKind.LEADER, name, parent=envelope.trace):
            return await work

    def _request(self, body: Message) -> Coroutine[Any, Any, Message]:
        """What an operator wants, for the desk of the life that leads."""
        if not isinstance(
            body,
            ListShares
            | ChangeShare
            | ListMachines
            | ChangeMachine
            | ListVolumes
            | AddVolume
            | RemoveVolume,
        ):
            raise NotSupported(f"the cluster service has no {type(body).__name__}")
        if self.reign is None:
            raise Unavailable(f"this leader is {self.state} and does not lead; look again")
        desk = self.reign.desk
        match body:
            case ListShares():
                return desk.shares()
            case ChangeShare():
                return desk.change_share(body)
            case ListMachines():
                return desk.machines()
            case ChangeMachine():
                return desk.change_machine(body)
            case AddVolume():
                return desk.add_volume(body)
            case RemoveVolume():
                return desk.remove_volume(body)
            case _:
                return desk.volumes()

    def describe(self) -> PartStateReply:
        """State of the leader, for people and tests."""
        facts = [f"run={self._env.settings.run_id.hex()[:8]}"]
        reign = self.reign
        if reign is not None:
            slots = ",".join(f"{slot}:{m[:8]}" for slot, m in reign.state.slots().items())
            facts += [f"epoch={reign.claim.epoch}", f"slots={slots}", *reign.counters.facts()]
            facts += reign.desk.facts()
            facts.append(f"volumes={','.join(reign.state.volumes())}")
            facts.append(f"drained={','.join(reign.state.avoided())}")
            facts.append(f"missing={','.join(reign.missing)}")
            if reign.elsewhere:
                names = ", ".join(f"{m.name or m.id[:8]} ({m.elsewhere})" for m in reign.elsewhere)
                facts.append(f"{ELSEWHERE}={names}")
            heard = reign.registrars.heard()
            if heard and reign.roster is not None:
                facts.append(f"dns_roster=version {reign.roster.version}, {heard}")
        problem = self.problem or (reign.problem if reign is not None else "")
        if problem:
            facts.append(f"problem={problem}")
        return PartStateReply("leader", self._name, self._incarnation, self.state, facts)

    async def status(self) -> ClusterStatusReply:
        """Ask every part how it is; those that do not answer are told as such."""
        own = self.describe()
        me = PartStatus(
            "leader", self._name, self.address, own.incarnation, 0, own.state, " ".join(own.facts)
        )
        parts = self.reign.state.parts() if self.reign is not None else []
        asked = [self._ask(part.role, part.name) for part in parts[:PARTS_ASKED_MAX]]
        answered: Sequence[PartStatus] = await asyncio.gather(*asked)
        return ClusterStatusReply(self._env.settings.run_id, [me, *answered])

    async def _ask(self, role: str, name: str) -> PartStatus:
        reign = self.reign
        facts = await reign.describe(name) if reign is not None else PartFacts(state="away")
        status = PartStatus(role, name, facts.address, b"", facts.pid, facts.state)
        status.detail = " ".join(facts.detail)
        if facts.address:
            try:
                found = await part_state(self._env.clock, self._transport, facts.address)
            except SofsError as error:
                status.state, status.detail = "away", str(error)
            else:
                status.incarnation, status.state = found.incarnation, found.state
                status.detail = " ".join(found.facts)
        return status
