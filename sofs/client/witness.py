"""The client's side of the witness protocol (MS-SWN): hear from another node that ours is gone.

Sequence. Ask the node in use for the interface list; pick an interface that is AVAILABLE, may be a
witness and is not on the node in use; register there with the address in use; keep one AsyncNotify
outstanding. A notice that the node in use is UNAVAILABLE ends the wait. Without a candidate, or
when the witness goes away, it is tried again each WITNESS_RETRY_MS; one that goes away after that
time is replaced at once. A list that no other node is in does not come before there is one: the
question stays asked. A witness may freeze as any node may: every question has a limit, and one that
stops answering pings is left.

A notice that this client is to move is given to the mover (``moving.py``), and the witness is told
what became of it, over the stream of the registration; where the client goes on, another witness is
chosen, since this one may be beside its new node. If the client stays, so does the registration.

The witness is a hint: it makes failover earlier and never decides anything else. A wrong notice
costs a failover.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from sofs.client import limits
from sofs.client.dialing import Dialer
from sofs.constants import WITNESS_RETRY_MS
from sofs.core import events as e
from sofs.core.messages import (
    AsyncNotify,
    GetInterfaceList,
    Interface,
    InterfaceList,
    MoveOutcome,
    Notification,
    Ping,
    RegisterWitness,
    RegisterWitnessReply,
)
from sofs.errors import SofsError, Unavailable
from sofs.ports.events import NO_EVENTS, Events
from sofs.ports.runtime import Clock
from sofs.ports.stream import Envelope
from sofs.services.channel import Channel, expect, result_of, within
from sofs.services.tasks import Tasks

WITNESS_VERSION: Final = 0x00020000
AVAILABLE: Final = 1
UNAVAILABLE: Final = 255
IPV4_VALID: Final = 1
IPV6_VALID: Final = 2
MAY_WITNESS: Final = 4
RESOURCE_CHANGE: Final = 1
MOVES: Final = (2, 3)  # Client move, share move.
KEEP_ALIVE_S: Final = 120  # The witness answers at least this often...
NOTIFY_MS_MAX: Final = KEEP_ALIVE_S * 1000 + 10_000  # ...or it is gone.


Move = Callable[[str, str, bytes], Awaitable[None]]
"""Moves the client to an address, for a reason, by a notice; raises SofsError if it stays."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Leave the node in use, for any other. With a ``destination``: move there, if that can be."""

    reason: str
    destination: str = ""
    trace: bytes = b""  # The context of the witness's span.


class WitnessClient:
    """At most one registration at a time, for one session. ``tasks``: of the client, in which a
    move goes on when the session that it began in has ended."""

    def __init__(
        self,
        dialer: Dialer,
        clock: Clock,
        client_id: bytes,
        share: str,
        move: Move,
        tasks: Tasks,
        events: Events = NO_EVENTS,
    ) -> None:
        self._emit = events.emit
        self._dialer = dialer
        self._clock = clock
        self._client_name = client_id.hex()
        self._share = share
        self._move = move
        self._tasks = tasks
        self._listing: asyncio.Future[Envelope] | None = None
        self._channel: Channel | None = None
        self.address = ""  # Of the witness registered with; "" without one.

    async def close(self) -> None:
        """End the registration's stream; the witness forgets it then."""
        channel, self._channel = self._channel, None
        left, self.address = self.address, ""
        if left:
            self._emit(e.WITNESS_LEFT, witness=left)
        if channel is not None:
            await channel.close()

    async def heed(self, session: Channel, address: str, node: str) -> Notice | None:
        """Return what a witness says about ``node`` at ``address``; None when ``session`` ended."""
        while session.alive:
            began = self._clock.monotonic_ms()
            try:
                registered = await self._register(session, address, node)
                if registered:
                    return await self._listen(address, node, registered)
            except SofsError as error:
                # The witness or its list is not to be had now: try again.
                if self.address:
                    self._emit(e.WITNESS_FAILED, witness=self.address, reason=str(error))
                elif self._listing is not None:
                    self._emit(e.INTERFACES_AWAITED, address=address)
                else:
                    self._emit(e.INTERFACES_FAILED, address=address, reason=str(error))
            finally:
                await self.close()
            # One that listened for long and went away is replaced at once.
            if self._clock.monotonic_ms() - began < WITNESS_RETRY_MS:
                self._emit(e.WITNESS_NONE, address=address, retry_s=WITNESS_RETRY_MS // 1000)
                await self._pause()
        return None

    async def _pause(self) -> None:
        """Wait for WITNESS_RETRY_MS, or until a list comes that was long in coming."""
        timer = asyncio.ensure_future(self._clock.sleep_ms(WITNESS_RETRY_MS))
        waiting: list[asyncio.Future[None] | asyncio.Future[Envelope]] = [timer]
        if self._listing is not None:
            waiting.append(self._listing)
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()

    async def _interfaces(self, session: Channel) -> InterfaceList:
        """The list of the node in use; Unavailable while it has nobody else to name."""
        if self._listing is None:
            self._listing = session.begin(GetInterfaceList())
            self._listing.add_done_callback(_seen)
        listing = asyncio.shield(self._listing)
        envelope = await within(self._clock, limits.CONNECT_MS_MAX, listing, "interfaces")
        self._listing = None
        return expect(result_of(envelope), InterfaceList)

    async def _register(self, session: Channel, address: str, node: str) -> bytes:
        limit_ms = limits.CONNECT_MS_MAX
        reply = await self._interfaces(session)
        n_interfaces = len(reply.interfaces)
        self._emit(e.INTERFACES_OBTAINED, address=address, interfaces=n_interfaces)
        for interface in reply.interfaces:
            where = witness_address(interface)
            if not where or interface.node == node or where == address:
                continue
            self._emit(e.WITNESS_SELECTED, witness=where, node=interface.node)
            try:
                self._channel = await self._dialer.open(where, "witness")
                self._emit(e.WITNESS_REQUESTED, witness=where, address=address)
                asking = self._channel.call(
                    RegisterWitness(
                        version=WITNESS_VERSION,
                        net_name=reply.net_name,
                        share_name=self._share,
                        address=address,
                        client_name=self._client_name,
                        keep_alive_s=KEEP_ALIVE_S,
                    )
                )
                answer = await within(self._clock, limit_ms, asking, f"register at {where}")
                context = expect(answer, RegisterWitnessReply).context
                self.address = where
                self._emit(e.WITNESS_REGISTERED, witness=where, address=address)
                return context
            except SofsError as error:
                self._emit(e.WITNESS_REFUSED, witness=where, address=address, reason=str(error))
                await self.close()  # The next candidate may do.
        return b""

    async def _listen(self, address: str, node: str, context: bytes) -> Notice:
        channel = self._channel
        assert channel is not None
        while True:
            waiting = channel.begin(AsyncNotify(context=context))
            waiting.add_done_callback(_seen)
            try:
                await self._until_answered(channel, waiting)
            finally:
                waiting.cancel()
            envelope = waiting.result()
            said = expect(result_of(envelope), Notification)
            self._tell(said)
            notice = judge(said, address, node)
            if notice is None:
                continue
            notice = replace(notice, trace=envelope.trace)
            if not notice.destination:
                return notice
            await self._follow(channel, context, notice)

    async def _follow(self, channel: Channel, context: bytes, notice: Notice) -> None:
        """Move; returns if the client stayed at its node. Else its session ends, and the one who
        waits here is cancelled: then the stream is the move's, which has still something to say."""
        self._channel = None
        moving = self._tasks.spawn(self._move_and_tell(channel, context, notice), "move")
        try:
            await asyncio.shield(moving)
        except asyncio.CancelledError:
            self._tasks.spawn(_close_after(moving, channel), "close-witness")
            raise
        self._channel = channel

    async def _move_and_tell(self, channel: Channel, context: bytes, notice: Notice) -> None:
        outcome = MoveOutcome(context, notice.destination)
        try:
            await self._move(notice.destination, notice.reason, notice.trace)
        except asyncio.CancelledError:  # The client is being closed.
            await channel.close()
            raise
        except SofsError as error:
            outcome = MoveOutcome(context, "", str(error))
        try:
            telling = channel.call(outcome)
            await within(self._clock, limits.CONNECT_MS_MAX, telling, "the outcome of a move")
        except SofsError:
            pass  # Whoever asked for the move sees the registration end, and looks again.

    def _tell(self, said: Notification) -> None:
        if said.kind == RESOURCE_CHANGE:
            words = {AVAILABLE: "available", UNAVAILABLE: "unavailable"}
            state = words.get(said.state, f"in state {said.state}")
            self._emit(e.WITNESS_NOTIFIED, witness=self.address, address=said.address, state=state)
        elif said.kind in MOVES:
            destination = said.address or "any other node"
            self._emit(e.WITNESS_MOVE, witness=self.address, destination=destination)

    async def _until_answered(self, channel: Channel, waiting: asyncio.Future[Envelope]) -> None:
        """Wait for NOTIFY_MS_MAX while the witness answers pings; else raise Unavailable."""
        until_ms = self._clock.monotonic_ms() + NOTIFY_MS_MAX
        while True:
            timer = asyncio.ensure_future(self._clock.sleep_ms(limits.WARM_CHECK_MS))
            try:
                await asyncio.wait((waiting, timer), return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
            if waiting.done():
                return
            if self._clock.monotonic_ms() >= until_ms:
                raise Unavailable(f"{channel.peer}: its keep-alive did not come")
            ping = channel.call(Ping())
            await within(self._clock, limits.CONNECT_MS_MAX, ping, f"ping {channel.peer}")


async def _close_after(moving: asyncio.Task[None], channel: Channel) -> None:
    try:
        await asyncio.wait((moving,))
    finally:
        await channel.close()


def _seen(waiting: asyncio.Future[Envelope]) -> None:
    """The end of the stream may be heard by a ping first; the other error is the same then."""
    if not waiting.cancelled():
        waiting.exception()


def witness_address(interface: Interface) -> str:
    """Where the interface's witness listens, IPv6 first; "" if it cannot be a witness now."""
    if interface.state != AVAILABLE or not interface.flags & MAY_WITNESS:
        return ""
    if interface.flags & IPV6_VALID and interface.ipv6:
        return f"[{interface.ipv6}]:{interface.port}"
    if interface.flags & IPV4_VALID and interface.ipv4:
        return f"{interface.ipv4}:{interface.port}"
    return ""


def judge(notification: Notification, address: str, node: str) -> Notice | None:
    """Return what a notification asks of a client that uses ``node`` at ``address``."""
    if notification.kind == RESOURCE_CHANGE:
        ours = notification.address == address or (bool(node) and notification.node == node)
        if ours and notification.state == UNAVAILABLE:
            return Notice("witness: node unavailable")
        return None
    if notification.kind in MOVES and notification.address:
        return Notice("witness: move", notification.address)
    return None
