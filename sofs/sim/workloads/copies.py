"""A client that speaks the wire protocol itself and does what the SDK never does: it sends copies
of what was answered, copies at the same time, what it has abandoned, and what its older sessions
still had to say. Each is answered as the first time, or refused; none takes effect again."""

from __future__ import annotations

from typing import ClassVar, Final

from sofs.core import messages as m
from sofs.errors import Abandoned, SofsError, Unavailable
from sofs.ids import ID_BYTES
from sofs.ports.stream import Envelope
from sofs.services.channel import Channel, expect, open_channel, result_of, within
from sofs.sim.network import SimTransport
from sofs.sim.workloads.base import Actor, Workload, pause
from sofs.sim.world import SimClock

PORT: Final = 7440
SHARE: Final = "share"
PRINCIPAL: Final = "copies"
CALL_MS: Final = 3_000
TRIES_MAX: Final = 40
STEPS: Final = ("fresh", "fresh", "copy", "twice", "abandon", "older", "move", "move")
ACCESS: Final = int(m.Access.READ | m.Access.WRITE | m.Access.APPEND)


class GivenUp(Exception):
    """The story cannot go on: its handle is lost, or nobody answers."""


class Copies(Workload):
    """One client and one file a step; the file is a row of appends."""

    name: ClassVar[str] = "copies"

    async def step(self, actor: Actor) -> None:
        story = Story(self, actor, f"/copy-{self.unique()}")
        try:
            await story.tell()
        except (GivenUp, SofsError) as error:
            self.world.tell(f"copies: {error}", actor.process)
        finally:
            await story.leave()


class Story:
    """See the module. ``done``: op sequence -> (data, where it was told to be)."""

    def __init__(self, workload: Copies, actor: Actor, path: str) -> None:
        self._workload = workload
        self._actor = actor
        self._path = path
        self._client = actor.process.entropy.token(ID_BYTES)
        self._channel: Channel | None = None
        self._op = 0
        self._handle = 0
        self._guid = actor.process.entropy.token(ID_BYTES)
        self._generation = 0
        self._sequence = 0
        self._done: dict[int, tuple[bytes, int]] = {}

    def _fail(self, text: str) -> None:
        self._workload.world.fail(f"{self._actor.name}, {self._path}: {text}")

    async def tell(self) -> None:
        draw = self._actor.draw
        await self._connect(self._client)
        await self._call(m.Reclaim(caller=self._caller()))
        opened = await self._call(
            m.Open(
                caller=self._caller(),
                path=self._path,
                access=ACCESS,
                share=int(m.Share.ALL),
                disposition=int(m.Disposition.CREATE),
                create_guid=self._guid,
            )
        )
        assert isinstance(opened, m.OpenReply)
        self._handle, self._generation = opened.handle, 1
        for _ in range(draw.randrange(3, 9)):
            await getattr(self, f"_{draw.choice(STEPS)}")()
            await pause(self._actor, 5.0)
        await self._close()
        await self._ghost()
        await self._end()

    # What is done ---------------------------------------------------------------------------

    async def _fresh(self) -> None:
        self._sequence += 1
        times = self._actor.draw.choice((1, 900))
        await self._append(self._sequence, b"%06d/" % self._sequence * times)

    async def _copy(self) -> None:
        """What was answered is answered again, as the first time."""
        for sequence in list(self._done):
            await self._append(sequence, self._done[sequence][0])

    async def _twice(self) -> None:
        """Two copies at the same time are one operation."""
        self._sequence += 1
        data = b"%06d=" % self._sequence * 900
        channel = self._alive()
        body = self._write(self._sequence)
        both = [channel.begin(body, data), channel.begin(body, data)]
        offsets = []
        for one in both:
            try:
                envelope = await within(self._clock, CALL_MS, one, "a copy")
                offsets.append(expect(result_of(envelope), m.WriteReply).offset)
            except SofsError:
                continue
        told = await self._append(self._sequence, data)
        if any(offset != told for offset in offsets):
            self._fail(f"copies of append {self._sequence} landed at {offsets} and {told}")

    async def _abandon(self) -> None:
        """What was settled as never to be executed is never executed."""
        self._sequence += 1
        reply = await self._call(
            m.Abandon(
                caller=m.Caller(self._client, PRINCIPAL),
                handle=self._handle,
                generation=self._generation,
                op_sequence=self._sequence,
            )
        )
        if expect((reply, b""), m.AbandonReply).executed:
            self._fail(f"append {self._sequence} was never sent, and is said to be executed")
        try:
            await self._append(self._sequence, b"abandoned")
        except Abandoned:
            self._done.pop(self._sequence, None)
            return
        self._fail(f"append {self._sequence} was abandoned, and then executed")

    async def _older(self) -> None:
        """What was sent under an older generation of the handle is refused."""
        if self._generation < 2:
            await self._move()
        body = self._write(self._sequence + 1)
        body.generation -= 1
        try:
            await self._alive().call(body, b"older")
        except SofsError:
            return
        self._fail(f"an append of generation {body.generation} was executed in {self._generation}")

    async def _move(self) -> None:
        """Go on through a node, mostly another one."""
        for _ in range(TRIES_MAX):
            try:
                await self._connect(self._client)
                reply = await self._once(
                    m.Reclaim(
                        caller=self._caller(),
                        handles=[m.ReclaimItem(self._handle, self._guid)],
                    )
                )
            except SofsError:
                await pause(self._actor, 100.0)
                continue
            [result] = expect((reply, b""), m.ReclaimReply).results
            if result.code:
                raise GivenUp(f"the handle is lost: {result.code}")
            if result.generation <= self._generation:
                self._fail(f"generation {self._generation} was followed by {result.generation}")
            self._generation = result.generation
            return
        raise GivenUp("nobody takes the handle")

    async def _close(self) -> None:
        """A write that is under way when its handle is closed is whole, or refused."""
        self._sequence += 1
        data = b"%06d!" % self._sequence * 900
        channel = self._alive()
        last = channel.begin(self._write(self._sequence), data)
        closing = channel.begin(
            m.Close(caller=self._caller(), handle=self._handle, generation=self._generation)
        )
        result_of(await within(self._clock, CALL_MS, closing, "a close"))
        # The close was answered, so the write was, too, or was refused.
        told = -1
        if last.done():
            try:
                told = expect(result_of(last.result()), m.WriteReply).offset
            except SofsError:
                told = -1
            else:
                self._done[self._sequence] = (data, told)
        else:
            self._fail(f"a close overtook append {self._sequence}")
        rows = sorted((at, data) for data, at in self._done.values())
        wanted = b"".join(data for _, data in rows)
        found = await self._actor.share.read_file(self._path)
        if found != wanted and (told >= 0 or found != wanted + data):
            places = [(at, len(data)) for at, data in rows]
            self._fail(f"{len(found)} bytes are there, told were {places}")

    async def _ghost(self) -> None:
        """Nobody knows this client any more: what it sends again may have happened, and is never
        executed as new."""
        ghost = self._actor.process.entropy.token(ID_BYTES)
        await self._connect(ghost)
        caller = m.Caller(ghost, PRINCIPAL, 2 + self._actor.draw.randrange(9))
        await self._never(m.Mkdir(caller=caller, path=f"{self._path}-ghost"))

    async def _end(self) -> None:
        """After its goodbye a client's late copies are refused."""
        await self._connect(self._client)
        late = self._caller()
        await self._once(m.EndClient(caller=self._caller()))
        await self._never(m.Mkdir(caller=late, path=f"{self._path}-late"))

    async def _never(self, body: m.Message) -> None:
        try:
            await self._once(body)
        except SofsError:
            return
        self._fail(f"{type(body).__name__} of a client that is not known was executed")

    # How --------------------------------------------------------------------------------------

    @property
    def _clock(self) -> SimClock:
        return self._actor.process.clock

    def _caller(self) -> m.Caller:
        self._op += 1
        return m.Caller(self._client, PRINCIPAL, self._op)

    def _write(self, sequence: int) -> m.Write:
        return m.Write(self._handle, self._generation, sequence, 1, 0, True)

    async def _append(self, sequence: int, data: bytes) -> int:
        """Append until it is answered; check that a copy is answered as the first was."""
        for _ in range(TRIES_MAX):
            try:
                call = self._alive().call(self._write(sequence), data)
                reply = expect(await within(self._clock, CALL_MS, call, "an append"), m.WriteReply)
            except Abandoned:
                raise
            except SofsError:
                await self._move()
                continue
            before = self._done.get(sequence)
            if before is not None and before[1] != reply.offset:
                self._fail(f"append {sequence} was told {before[1]} and then {reply.offset}")
            self._done[sequence] = (data, reply.offset)
            return reply.offset
        raise GivenUp(f"append {sequence} finds no answer")

    async def _call(self, body: m.Message) -> m.Message:
        """Call until it is answered, through whatever node."""
        for _ in range(TRIES_MAX):
            try:
                return await self._once(body)
            except Unavailable:
                if self._handle:
                    raise
                await self._connect(self._client)
            except SofsError as error:
                if error.retry == "never":
                    raise
            await pause(self._actor, 50.0)
        raise GivenUp(f"{type(body).__name__} finds no answer")

    async def _once(self, body: m.Message) -> m.Message:
        reply, _ = await within(self._clock, CALL_MS, self._alive().call(body), type(body).__name__)
        return reply

    def _alive(self) -> Channel:
        if self._channel is None:
            raise Unavailable("no session")
        return self._channel

    async def _connect(self, client: bytes) -> None:
        """A new session, at a node that is drawn."""
        process, draw = self._actor.process, self._actor.draw
        await self.leave()
        for _ in range(TRIES_MAX):
            address = f"10.0.0.{1 + draw.randrange(self._workload.plan.nodes)}:{PORT}"
            try:
                self._channel = await open_channel(
                    SimTransport(process.world.network, process),
                    process.clock,
                    address,
                    "file",
                    m.Hello(client=client, principal=PRINCIPAL, share=SHARE),
                    _ignore,
                    name=self._path,
                    on_crash=_ignore,
                    timeout_ms=500,
                )
                return
            except SofsError:
                await pause(self._actor, 50.0)
        raise GivenUp("no node answers")

    async def leave(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


def _ignore(*given: Channel | Envelope | BaseException) -> None:
    """What comes unasked says nothing here."""
