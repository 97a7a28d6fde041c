"""Questions of resolvers, and who answers them. ``sofs.dns_wire`` implements ``DnsWire``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sofs.core.zone import Question, Reply


class Answerer(Protocol):
    """Knows the zone. Both methods return at once and raise nothing for any question."""

    def answer(self, question: Question) -> Reply:
        """Return the answer; nothing changes by it."""
        ...

    def answered(self, reply: Reply) -> None:
        """``reply`` is on its way, whole."""
        ...


class DnsListener(Protocol):
    @property
    def address(self) -> str:
        """``host:port`` as bound, for UDP and TCP."""
        ...

    def counters(self) -> dict[str, int]:
        """What came in and what became of it, since the start."""
        ...

    async def close(self) -> None:
        """Answer nothing more; connections end. May be called twice."""
        ...


class DnsWire(Protocol):
    async def listen(
        self, address: str, answerer: Answerer, on_crash: Callable[[BaseException], None]
    ) -> DnsListener:
        """Answer at ``address`` (port 0: any that is free for both), over UDP and TCP. Raises
        Unavailable when the port is taken, since resolvers would not find another; InvalidParameter
        when the host is none of this machine. ``on_crash`` gets what only a bug can raise."""
        ...
