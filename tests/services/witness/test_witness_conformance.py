"""MS-SWN as its conformance suites try it, by the names of the cases: the witness's side."""

from __future__ import annotations

import asyncio

import pytest
from witness_rig import HERE, NAME, NODES, Net, ask, net_of, request

from sofs.core import messages as m
from sofs.core import witness as w
from sofs.errors import (
    DeadlineExceeded,
    InvalidParameter,
    InvalidState,
    NotFound,
    RevisionMismatch,
)
from sofs.services.channel import Channel, expect


async def listed(channel: Channel) -> m.InterfaceList:
    return expect(await channel.call(m.GetInterfaceList()), m.InterfaceList)


async def test_swn_list_self_the_answering_node_may_not_witness_and_all_are_available() -> None:
    async with net_of(0, 2) as net:
        reply = await listed(await net.client())
        assert reply.net_name == NAME
        assert [bool(i.flags & w.MAY_WITNESS) for i in reply.interfaces] == [True, False, True]
        assert [i.state for i in reply.interfaces] == [w.AVAILABLE] * 3
        assert {i.version for i in reply.interfaces} == {w.VERSION}
        assert all(i.flags & w.IPV4_VALID and i.ipv4 for i in reply.interfaces)


async def test_swn_list_single_node_does_not_return_until_another_one_appears() -> None:
    async with net_of() as net:
        asked = asyncio.ensure_future(listed(await net.client()))
        await net.until(lambda: net.state(NODES[2]) == w.UNAVAILABLE)
        assert not asked.done()
        net.start_node(NODES[2])
        assert (await asked).interfaces[2].state == w.AVAILABLE


BAD = [
    ("swn-bad-netname", {"net_name": "another.example"}, InvalidParameter),
    ("swn-bad-netname-null", {"net_name": ""}, InvalidParameter),
    ("swn-bad-ip-null", {"address": ""}, InvalidParameter),
    ("swn-bad-client-null", {"client_name": ""}, InvalidParameter),
    ("swn-bad-ip", {"address": "10.9.9.9:7000"}, InvalidState),
    ("swn-bad-ip-own", {"address": NODES[HERE]}, InvalidState),
]


@pytest.mark.parametrize(("case", "fields", "error"), BAD, ids=[row[0] for row in BAD])
async def test_swn_a_bad_registration_is_refused_by_both_methods(
    case: str, fields: dict[str, str], error: type[Exception]
) -> None:
    async with net_of(0, 2) as net:
        channel = await net.client()
        with pytest.raises(error):
            await channel.call(request(**fields))
        with pytest.raises(error):
            await channel.call(first(**fields))
        assert len(net.part.registry) == 0


async def test_swn_bad_version_each_method_takes_its_own_only() -> None:
    async with net_of(0, 2) as net:
        channel = await net.client()
        for wrong in (request(version=w.VERSION_1), first(version=w.VERSION), first(version=0)):
            with pytest.raises(RevisionMismatch):
                await channel.call(wrong)
        await channel.call(first())
        await channel.call(request())
        assert [r.version for r in net.part.registry.registrations()] == [w.VERSION_1, w.VERSION]


async def test_swn_bad_share_is_an_invalid_state() -> None:
    async with net_of(0, 2) as net:
        with pytest.raises(InvalidState):
            await net.registered(share_name="nosuch")


async def test_swn_double_unregister_is_an_invalid_parameter() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        await channel.call(m.UnregisterWitness(context))
        with pytest.raises(InvalidParameter):
            await channel.call(m.UnregisterWitness(context))


async def test_swn_notify_bad_ctx_is_not_found() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        with pytest.raises(NotFound):
            await ask(channel, b"?" * 16)
        await channel.call(m.UnregisterWitness(context))
        with pytest.raises(NotFound):
            await ask(channel, context)


async def test_swn_keepalive_answers_and_asking_again_works() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered(keep_alive_s=1)
        with pytest.raises(DeadlineExceeded):
            await ask(channel, context)
        again = asyncio.ensure_future(ask(channel, context))
        net.hub.cut(NODES[0])
        assert (await again).state == w.UNAVAILABLE


async def test_swn_unused_registrations_are_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(w, "UNUSED_MS", 100)
    async with net_of(0, 2) as net:
        channel, context = await net.registered(keep_alive_s=0)
        await net.until(lambda: not len(net.part.registry))
        with pytest.raises(NotFound):
            await ask(channel, context)


async def test_swn_node_down_is_unavailable_and_then_available() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        net.hub.cut(NODES[0])
        down = await ask(channel, context)
        assert (down.kind, down.state) == (w.RESOURCE_CHANGE, w.UNAVAILABLE)
        net.start_node(NODES[0])
        up = await ask(channel, context)
        assert (up.kind, up.state, up.address) == (w.RESOURCE_CHANGE, w.AVAILABLE, NODES[0])


async def test_swn_client_move_names_the_destination_for_both_versions() -> None:
    async with net_of(0, 2) as net:
        for make in (request, first):
            channel = await net.client()
            reply = expect(await channel.call(make()), m.RegisterWitnessReply)
            notice = await moved(net, channel, reply.context, m.MoveClients("client"))
            assert (notice.kind, notice.address) == (w.CLIENT_MOVE, NODES[2])
            await channel.close()
            await net.until(lambda: not len(net.part.registry))


async def test_swn_share_move_is_for_registrations_by_share() -> None:
    async with net_of(0, 2) as net:
        plain, context = await net.registered(share_name="")
        silent = asyncio.ensure_future(ask(plain, context))
        channel, by_share = await net.registered()
        notice = await moved(net, channel, by_share, m.MoveClients(share_name="share"))
        assert (notice.kind, notice.address) == (w.SHARE_MOVE, NODES[2])
        assert not silent.done()
        silent.cancel()


async def moved(net: Net, channel: Channel, context: bytes, what: m.MoveClients) -> m.Notification:
    """Ask for a move to the third node, and be the client who goes there."""
    what.destinations = [NODES[2]]
    moving = asyncio.ensure_future(net.part.move(what))
    notice = await ask(channel, context)
    await channel.call(m.MoveOutcome(context, NODES[2]))
    assert (await moving).moved == 1
    return notice


def first(**fields: object) -> m.RegisterWitnessV1:
    """A registration by the first version's method."""
    made = m.RegisterWitnessV1(w.VERSION_1, NAME, NODES[0], "client")
    for name, value in fields.items():
        setattr(made, name, value)
    return made
