"""Finding a node: the addresses of the access point, and streams to them.

Order. IPv6 addresses first, each family rotated from a random start, so that clients spread over
the nodes; an address that just failed goes last. Who says where to ``start`` has that one first.
Addresses come from the caller (or its resolver, asked again when a whole round failed) and from
every node's HelloReply. A resolver that says that its answers are ``ordered`` has spread the
clients already: then nothing is rotated here.

A dead address refuses at once; a frozen one accepts and stays silent. So the next address is tried
when the last one failed or CLIENT_HEDGE_MS after it, whichever comes first, and the first stream
with an answered Hello wins.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence

from sofs.client import limits
from sofs.constants import CLIENT_HEDGE_MS
from sofs.core.messages import Hello, HelloReply
from sofs.errors import InvalidParameter, SofsError, Unavailable
from sofs.ports.runtime import Clock
from sofs.ports.stream import Transport
from sofs.services.channel import Channel, Handler, open_channel

Resolver = Callable[[], Awaitable[Sequence[str]]]


class AddressBook:
    """The known addresses, ``host:port`` each."""

    def __init__(
        self, addresses: Sequence[str] | Resolver, rotation: random.Random, start: str = ""
    ) -> None:
        """``start``: the address to try first, if it is one of them."""
        self._start = start
        self._resolver: Resolver | None = None
        self._configured: list[str] = []
        self._hinted: dict[str, None] = {}
        self._rotation = rotation
        self._turn = rotation.getrandbits(16)
        if callable(addresses):
            self._resolver = addresses
            if getattr(addresses, "ordered", False):
                self._turn = 0
        else:
            self._configured = list(dict.fromkeys(addresses))[: limits.ADDRESSES_MAX]
            if not self._configured:
                raise InvalidParameter("no address of a node was given")

    async def refresh(self) -> None:
        """Ask the resolver again; without an answer the old addresses stay."""
        if self._resolver is not None:
            found = list(dict.fromkeys(await self._resolver()))
            self._configured = found[: limits.ADDRESSES_MAX] or self._configured

    def hint(self, addresses: Sequence[str]) -> None:
        """A node named the addresses of its access point."""
        if addresses:
            self._hinted = dict.fromkeys(addresses[: limits.ADDRESSES_MAX])

    def known(self) -> list[str]:
        return list(dict.fromkeys([*self._configured, *self._hinted]))

    def order(self, avoid: Collection[str] = ()) -> list[str]:
        """All addresses in the order to try them; those in ``avoid`` last."""
        known = self.known()
        ordered = [
            *self._rotated([a for a in known if a.startswith("[")]),
            *self._rotated([a for a in known if not a.startswith("[")]),
        ]
        if self._start in ordered:
            ordered.remove(self._start)
            ordered.insert(0, self._start)
        return [a for a in ordered if a not in avoid] + [a for a in ordered if a in avoid]

    def _rotated(self, addresses: list[str]) -> list[str]:
        start = self._turn % len(addresses) if addresses else 0
        return addresses[start:] + addresses[:start]


class Dialer:
    """Opens streams with Hello answered."""

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        make_hello: Callable[[], Hello],
        handler: Handler,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._make_hello = make_hello
        self._handler = handler
        self._on_crash = on_crash

    async def open(self, address: str, service: str = "file") -> Channel:
        """Open one stream; raises what ``open_channel`` raises."""
        return await open_channel(
            self._transport,
            self._clock,
            address,
            service,
            self._make_hello(),
            self._handler,
            name=f"client-{service}-{address}",
            on_crash=self._on_crash,
            timeout_ms=limits.CONNECT_MS_MAX,
        )

    async def first(
        self, addresses: Sequence[str], usable: Callable[[Channel], bool] = lambda _: True
    ) -> Channel:
        """Return the first stream to any of ``addresses`` that is ``usable``.

        Raises Unavailable with every address's reason, or the error that no other address will
        mend (a refused credential, another protocol version, an unknown share).
        """
        errors: list[SofsError] = []
        dials: dict[asyncio.Task[Channel], str] = {}
        rest = list(addresses)
        timer: asyncio.Task[None] | None = None
        try:
            while rest or dials:
                if rest and (timer is None or timer.done() or not dials):
                    address = rest.pop(0)
                    dials[asyncio.ensure_future(self.open(address))] = address
                    if timer is not None:
                        timer.cancel()
                    timer = asyncio.ensure_future(self._clock.sleep_ms(CLIENT_HEDGE_MS))
                waiting: list[asyncio.Task[Channel] | asyncio.Task[None]] = list(dials)
                if rest and timer is not None:
                    waiting.append(timer)
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for dial in [dial for dial in dials if dial.done()]:
                    address = dials.pop(dial)
                    try:
                        channel = dial.result()
                    except SofsError as error:
                        errors.append(error)
                        continue
                    if usable(channel):
                        return channel
                    await channel.close()
        finally:
            if timer is not None:
                timer.cancel()
            await _cancel_dials(list(dials))
        raise _all_failed(addresses, errors)


async def _cancel_dials(dials: list[asyncio.Task[Channel]]) -> None:
    """Cancel what lost the race; one that won at the same moment is closed."""
    for dial in dials:
        dial.cancel()
    for outcome in await asyncio.gather(*dials, return_exceptions=True):
        if isinstance(outcome, Channel):
            await outcome.close()


def _all_failed(addresses: Sequence[str], errors: Sequence[SofsError]) -> SofsError:
    for error in errors:
        if error.retry == "never":
            return error
    reasons = "; ".join(str(error) for error in errors[:4]) or "none is usable"
    return Unavailable(f"no node answers at {', '.join(addresses)}: {reasons}")


def node_of(channel: Channel) -> str:
    """The name of the node at the other end; its address when it has none."""
    remote = channel.remote
    name = remote.node if isinstance(remote, HelloReply) else ""
    return name or channel.peer
