"""Asking witnesses: who is registered where, and to move a client; for people and the leader.

Each witness knows its own registrations only, so all of them are asked, at the same time. One that
does not answer is named, with the reason: its clients are missing from what is returned, and watch
out for themselves.

A move is asked of the witness that holds the client's registration, and done when the client says
so. A registration may end in between (the client failed over, or its witness died): then all are
asked again, until FIND_MS_MAX passed without a trace of the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sofs.core.messages import (
    ClientsMoved,
    ListWitnessed,
    MoveClients,
    WitnessedClient,
    WitnessedList,
)
from sofs.core.witness import REGISTRATIONS_MAX
from sofs.errors import InvalidParameter, NotFound, SofsError, Unavailable
from sofs.ports.runtime import Clock
from sofs.ports.stream import Transport
from sofs.services.leader.ask import ask_part
from sofs.services.witness.part import MOVE_ANSWER_MS_MAX

LIST_MS_MAX: Final = 2_000  # One page of one witness.
MOVE_MS_MAX: Final = MOVE_ANSWER_MS_MAX + 2_000
FIND_MS_MAX: Final = 3_000  # A client between two registrations.
FIND_AGAIN_MS: Final = 100
NAME_CHARS_MIN: Final = 4  # Of the beginning of a client's name.


@dataclass(slots=True)
class Survey:
    """What witnesses said, and why others (by name) did not."""

    lists: list[WitnessedList] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)


async def list_all(clock: Clock, transport: Transport, address: str) -> WitnessedList:
    """All registrations of the witness at ``address``, page by page, in the order in which they
    were made: one that lasts until the end is there, and none twice. Newcomers come last, so
    REGISTRATIONS_MAX of them are the end, however many more keep coming."""
    whole = await _page(clock, transport, address, 0)
    after = whole.next
    while after and len(whole.clients) < REGISTRATIONS_MAX:
        page = await _page(clock, transport, address, after)
        whole.clients += page.clients
        after = page.next
    return whole


async def _page(clock: Clock, transport: Transport, address: str, after: int) -> WitnessedList:
    body = ListWitnessed(after)
    return await ask_part(clock, transport, address, body, WitnessedList, LIST_MS_MAX)


async def survey(clock: Clock, transport: Transport, witnesses: Mapping[str, str]) -> Survey:
    """Ask all ``witnesses`` (name to address, "" if it is not known)."""
    found = Survey()

    async def one(name: str, address: str) -> WitnessedList | None:
        try:
            if not address:
                raise Unavailable("nobody knows where it listens")
            return await list_all(clock, transport, address)
        except SofsError as error:
            found.silent[name] = error.message
            return None

    lists = await asyncio.gather(*(one(name, at) for name, at in witnesses.items()))
    found.lists = [listed for listed in lists if listed is not None]
    return found


async def move(clock: Clock, transport: Transport, address: str, body: MoveClients) -> ClientsMoved:
    """Have the witness at ``address`` move clients; returns what became of it."""
    return await ask_part(clock, transport, address, body, ClientsMoved, MOVE_MS_MAX)


async def move_client(
    clock: Clock, transport: Transport, witnesses: Mapping[str, str], client: str, destination: str
) -> bool:
    """Move the client whose name begins with ``client`` to the node at ``destination``; False if it
    was there. Raises NotFound, InvalidParameter (several such), or Unavailable: why it stayed."""
    until_ms = clock.monotonic_ms() + FIND_MS_MAX
    asked = False
    while True:
        seen = await survey(clock, transport, witnesses)
        found = find(seen, client)
        if found is not None:
            witness, known = found
            if known.address == destination:
                return asked
            client, asked = known.client_name, True
            body = MoveClients(client, destinations=[destination])
            try:
                reply = await move(clock, transport, witnesses[witness], body)
            except NotFound:  # It registered elsewhere meanwhile, or left: look again.
                reply = ClientsMoved(told=1, ended=1)
            if reply.moved == reply.told:
                return True
            if not reply.ended:
                raise Unavailable(f"client {client} stays at {known.node}: {reply.reasons[0]}")
        if clock.monotonic_ms() > until_ms:
            silent = ", ".join(f"{name} does not answer" for name in seen.silent)
            raise NotFound(
                f"no client {client!r} is registered with a witness"
                f"{f' ({silent})' if silent else ''}; `sofs witness ls` lists them"
            )
        await clock.sleep_ms(FIND_AGAIN_MS)


def find(seen: Survey, client: str) -> tuple[str, WitnessedClient] | None:
    """The witness (by name) and the registration of the client whose name begins so."""
    if len(client) < NAME_CHARS_MIN:
        raise InvalidParameter(f"client: give {NAME_CHARS_MIN} characters of its name, or more")
    found = [
        (listed.witness, known)
        for listed in seen.lists
        for known in listed.clients
        if known.client_name.startswith(client)
    ]
    names = list(dict.fromkeys(known.client_name for _, known in found))
    if len(names) > 1:
        raise InvalidParameter(f"{len(names)} clients begin with {client!r}: {', '.join(names)}")
    return found[0] if found else None
