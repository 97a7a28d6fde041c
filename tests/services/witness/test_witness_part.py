"""The witness over an in-process network: real time, nodes that only greet and answer pings."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from witness_rig import HERE, NODES, WITNESSES, ask, net_of, request

from sofs.core import messages as m
from sofs.core import witness as w
from sofs.errors import InvalidParameter, InvalidState, NotFound, NotSupported, RevisionMismatch
from sofs.services.channel import expect
from sofs.services.witness import ask as ask_module
from sofs.services.witness import part
from sofs.services.witness.ask import list_all


async def test_a_killed_node_is_told_at_once_and_its_return_next() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        asked = asyncio.ensure_future(ask(channel, context))
        await net.until(lambda: [r for r in net.part.registry.registrations() if r.asker])
        net.hub.cut(NODES[0])
        name = f"node at {NODES[0]}"
        assert await asked == m.Notification(w.RESOURCE_CHANGE, w.UNAVAILABLE, name, NODES[0])
        net.start_node(NODES[0])
        assert (await ask(channel, context)).state == w.AVAILABLE


async def test_a_node_that_restarted_unseen_is_told_as_gone() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        net.hub.cut(NODES[0])
        net.start_node(NODES[0])  # Before the witness dials again.
        assert (await ask(channel, context)).state == w.UNAVAILABLE
        assert (await ask(channel, context)).state == w.AVAILABLE


async def test_a_frozen_node_is_told_after_the_limit_and_its_return_when_it_speaks() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        net.hub.freeze(NODES[0])
        assert (await ask(channel, context)).state == w.UNAVAILABLE
        net.hub.thaw(NODES[0])
        assert (await ask(channel, context)).state == w.AVAILABLE


async def test_the_change_of_another_node_is_not_told() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        asked = asyncio.ensure_future(ask(channel, context))
        net.hub.cut(NODES[2])
        await net.until(lambda: net.state(NODES[2]) == w.UNAVAILABLE)
        assert not asked.done()
        asked.cancel()


async def test_the_interface_list_waits_until_another_node_is_available() -> None:
    async with net_of() as net:
        channel = await net.client()
        asked = asyncio.ensure_future(channel.call(m.GetInterfaceList()))
        await net.until(lambda: net.state(NODES[0]) == w.UNAVAILABLE)
        assert not asked.done()
        net.start_node(NODES[2])
        listed = expect(await asked, m.InterfaceList).interfaces
        assert [i.state for i in listed] == [w.UNAVAILABLE, w.AVAILABLE, w.AVAILABLE]
        assert [bool(i.flags & w.MAY_WITNESS) for i in listed] == [True, False, True]
        assert listed[2].node == f"node at {NODES[2]}"
        assert [i.port for i in listed] == [7001] * 3


async def test_the_own_node_is_not_watched() -> None:
    async with net_of(0, 2) as net:
        assert list(net.part.watched) == [NODES[0], NODES[2]]
        with pytest.raises(InvalidState):
            await net.registered(address=NODES[HERE])


async def test_a_registration_waits_for_a_node_that_just_comes_back() -> None:
    async with net_of(2) as net:
        await net.until(lambda: net.state(NODES[0]) == w.UNAVAILABLE)
        asked = asyncio.ensure_future(net.registered())
        await net.until(lambda: len(net.channels) == 1)
        net.start_node(NODES[0])
        await asked
        assert len(net.part.registry) == 1


async def test_a_registration_for_a_node_out_of_reach_is_refused() -> None:
    async with net_of(2) as net:
        await net.until(lambda: net.state(NODES[0]) == w.UNAVAILABLE)
        with pytest.raises(InvalidState, match="another witness"):
            await net.registered()


async def test_requests_with_unknown_contexts_and_versions_get_typed_errors() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        with pytest.raises(RevisionMismatch):
            await channel.call(request(version=1))
        with pytest.raises(NotFound):
            await ask(channel, b"?" * 16)
        await channel.call(m.UnregisterWitness(context))
        with pytest.raises(InvalidParameter):
            await channel.call(m.UnregisterWitness(context))
        with pytest.raises(NotSupported):
            await channel.call(m.Read(1, 1, 0, 1))
        assert channel.alive


async def test_a_registration_ends_with_its_stream() -> None:
    async with net_of(0, 2) as net:
        channel, _ = await net.registered()
        await channel.close()
        await net.until(lambda: len(net.part.registry) == 0)


async def test_a_move_is_answered_when_its_client_said_what_became_of_it() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        assert await net.part.move(m.MoveClients("client", destinations=[NODES[0]])) == (
            m.ClientsMoved()
        )
        for text, moved in (("", 1), ("the network is down", 0)):
            moving = asyncio.ensure_future(
                net.part.move(m.MoveClients("client", destinations=[NODES[2]]))
            )
            notice = await ask(channel, context)
            assert (notice.kind, notice.address) == (w.CLIENT_MOVE, NODES[2])
            assert not moving.done()
            await channel.call(m.MoveOutcome(context, "", text))
            assert await moving == m.ClientsMoved(1, moved, [text] if text else [])


async def test_an_outcome_counts_only_on_the_stream_of_its_registration() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        stranger = await net.client()
        moving = asyncio.ensure_future(
            net.part.move(m.MoveClients("client", destinations=[NODES[2]]))
        )
        await ask(channel, context)
        with pytest.raises(NotFound):
            await stranger.call(m.MoveOutcome(context))
        assert not moving.done()
        await channel.close()
        assert (await moving).moved == 0


async def test_moves_are_answered_in_their_order_and_at_the_end_of_the_registration() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        one, two, three = (
            asyncio.ensure_future(net.part.move(m.MoveClients("client", destinations=[node])))
            for node in (NODES[2], NODES[HERE], NODES[2])
        )
        assert (await ask(channel, context)).address == NODES[2]
        await channel.call(m.MoveOutcome(context, "", "the first stayed"))
        assert (await one).reasons == ["the first stayed"]
        assert (await ask(channel, context)).address == NODES[HERE]
        assert not two.done()
        await channel.call(m.MoveOutcome(context))
        assert (await two).moved == 1
        await channel.call(m.UnregisterWitness(context))
        assert await three == m.ClientsMoved(1, 0, [part.REGISTRATION_ENDED], ended=1)


async def test_a_client_that_never_says_what_became_of_a_move_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(part, "MOVE_ANSWER_MS_MAX", 50)
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        first = await net.part.move(m.MoveClients("client", destinations=[NODES[2]]))
        assert "no word" in first.reasons[0]
        monkeypatch.setattr(part, "MOVE_ANSWER_MS_MAX", 10_000)
        second = asyncio.ensure_future(
            net.part.move(m.MoveClients("client", destinations=[NODES[2]]))
        )
        for text in ("the outcome of the first one", ""):
            await ask(channel, context)
            assert not second.done()
            await channel.call(m.MoveOutcome(context, "", text))
        assert (await second).moved == 1


async def test_the_registrations_are_listed_over_the_cluster_service() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        asked = asyncio.ensure_future(ask(channel, context))
        await net.until(lambda: [r for r in net.part.registry.registrations() if r.asker])
        listed = expect(await channel.call(m.ListWitnessed()), m.WitnessedList)
        assert (listed.witness, listed.address, listed.total) == ("w", NODES[HERE], 1)
        [found] = listed.clients
        assert (found.client_name, found.share_name, found.address) == ("client", "share", NODES[0])
        assert (found.node, found.state) == (f"node at {NODES[0]}", "requested-notification")
        asked.cancel()


async def test_who_stays_is_listed_once_while_others_leave_and_come_between_the_pages() -> None:
    async with net_of(0, 2) as net:
        registry, numbers = net.part.registry, itertools.count()
        streams: dict[str, object] = {}

        def come(count: int) -> None:
            for n in itertools.islice(numbers, count):
                owner, name = object(), f"client-{n}"
                registry.register(0, owner, b"%d" % n, request(client_name=name))
                streams[name] = owner

        come(2 * w.LISTED_MAX + 500)
        pages = net.part.listed

        def listed(*after: int) -> m.WitnessedList:
            page = pages(*after)
            for client in page.clients[:100]:  # They leave once they were listed...
                registry.owner_gone(streams.pop(client.client_name))
            for name in list(streams)[-50:]:  # ...or before.
                registry.owner_gone(streams.pop(name))
            come(20)
            return page

        net.part.listed = listed  # type: ignore[method-assign]
        begin = list(streams)
        whole = await list_all(net.clock, net.hub.transport(), WITNESSES[HERE])
        names = [client.client_name for client in whole.clients]
        assert len(names) > 2 * w.LISTED_MAX
        assert len(names) == len(set(names)), "somebody is listed twice"
        assert [name for name in begin if name in streams and name not in names] == []


async def test_a_listing_ends_however_many_more_keep_coming(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(w, "LISTED_MAX", 1)
    monkeypatch.setattr(ask_module, "REGISTRATIONS_MAX", 5)
    async with net_of(0, 2) as net:
        numbers = itertools.count()
        pages = net.part.listed

        def come() -> None:
            n = next(numbers)
            net.part.registry.register(0, n, b"%d" % n, request(client_name=f"client-{n}"))

        def listed(*after: int) -> m.WitnessedList:
            come()
            return pages(*after)

        net.part.listed = listed  # type: ignore[method-assign]
        come()
        whole = await list_all(net.clock, net.hub.transport(), WITNESSES[HERE])
        assert [client.client_name for client in whole.clients] == [f"client-{n}" for n in range(5)]


async def test_the_part_describes_what_it_sees() -> None:
    async with net_of(0) as net:
        channel, _ = await net.registered()
        state = expect(await channel.call(m.PartState()), m.PartStateReply)
        assert (state.part, state.name, state.state) == ("witness", "w", "serving")
        assert "registrations=1" in state.facts
        assert any(fact.startswith(f"node {NODES[0]}=available") for fact in state.facts)
