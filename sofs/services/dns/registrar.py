"""Telling the DNS parts something, for as long as it is true: used by nodes and by the leader.

A registrar keeps a standing stream to the DNS part and says ``current()`` on it: at once when the
stream was made (so that a DNS part that was started again learns everything within REDIAL_MS_MAX),
when it has become something else, and every REPEAT_MS although it has not. The DNS part may be away
for as long as it likes: nobody waits for a registrar, and nothing depends on it.

There is a registrar for each DNS part, with a stream and a task of its own: one part that is dead
or frozen delays nothing of what the other is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from sofs.constants import RECONNECT_BACKOFF_MS
from sofs.core.messages import Hello, Message
from sofs.errors import NotSupported, SofsError
from sofs.ports.runtime import Clock
from sofs.ports.stream import Envelope, Transport
from sofs.services.channel import Channel, open_channel, within
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.dns")

DNS_SERVICE: Final = "dns"
LOOK_MS: Final = 200  # Between looks at what is to be said.
REPEAT_MS: Final = 60_000  # Windows says 24 h; ours costs nothing.
ANSWER_MS_MAX: Final = 2_000
REDIAL_MS_MAX: Final = 500
REFUSED_MS: Final = 5_000  # A registration that was refused is repeated after this.


class Registrar:
    """See the module. ``run`` is to be a task of its owner. ``current``: what is true now, None for
    nothing to say; a message that equals the last one is not said again."""

    def __init__(
        self,
        clock: Clock,
        transport: Transport,
        address: str,
        name: str,
        current: Callable[[], Message | None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._clock = clock
        self._transport = transport
        self.address = address
        self._name = name
        self._current = current
        self._on_crash = on_crash
        self.said = 0  # So many times it was heard.
        self.problem = ""

    async def run(self) -> None:
        """Keep saying it, until cancelled."""
        pause_ms = RECONNECT_BACKOFF_MS
        while True:
            said = self.said
            try:
                channel = await self._dial()
            except SofsError as error:
                self._trouble(f"the DNS part at {self.address} is away: {error}")
            else:
                try:
                    await self._say(channel)
                finally:
                    await channel.close()
            pause_ms = (
                RECONNECT_BACKOFF_MS if self.said > said else min(2 * pause_ms, REDIAL_MS_MAX)
            )
            await self._clock.sleep_ms(pause_ms)

    async def _dial(self) -> Channel:
        return await open_channel(
            self._transport,
            self._clock,
            self.address,
            DNS_SERVICE,
            Hello(),
            _refuse_requests,
            name=f"registrar {self._name}",
            on_crash=self._on_crash,
            timeout_ms=ANSWER_MS_MAX,
        )

    async def _say(self, channel: Channel) -> None:
        """Say what is true on one stream, until it ends or does not answer."""
        last: Message | None = None
        due_ms = self._clock.monotonic_ms()
        while channel.alive:
            now, current = self._clock.monotonic_ms(), self._current()
            if current is not None and (current != last or now >= due_ms):
                last, due_ms = current, now + REPEAT_MS
                try:
                    await within(
                        self._clock, ANSWER_MS_MAX, channel.call(current), "a registration"
                    )
                except SofsError as error:
                    self._trouble(f"a registration at {self.address} failed: {error}")
                    if not error.definite:
                        return
                    due_ms = now + REFUSED_MS
                else:
                    self.said += 1
                    self.problem = ""
            await self._clock.sleep_ms(LOOK_MS)

    def _trouble(self, text: str) -> None:
        if text != self.problem:
            log.info("%s: %s", self._name, text)
        self.problem = text


class Registrars:
    """One registrar for each DNS part, at ``addresses``; they know nothing of each other."""

    def __init__(
        self,
        clock: Clock,
        transport: Transport,
        addresses: Sequence[str],
        name: str,
        current: Callable[[], Message | None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._each = [
            Registrar(clock, transport, address, name, current, on_crash) for address in addresses
        ]

    def start(self, tasks: Tasks) -> None:
        """Keep saying it, for as long as ``tasks`` live."""
        for registrar in self._each:
            tasks.spawn(registrar.run(), f"registrar {registrar.address}")

    def heard(self) -> str:
        """For people: how often each part heard it, or why it does not; "" without parts."""
        return "; ".join(each.problem or f"told {each.said}" for each in self._each)


def _refuse_requests(channel: Channel, envelope: Envelope) -> None:
    raise NotSupported(f"a registrar takes no {type(envelope.body).__name__}")
