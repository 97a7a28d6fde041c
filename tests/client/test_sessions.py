"""How a client becomes known, takes its handles along, and learns that its node is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from client_rig import Rig, rig_of
from mini_cluster import DROP, LOSE

from sofs.client import limits
from sofs.core import messages as m
from sofs.errors import (
    DiskFull,
    Expired,
    HandleLost,
    LimitExceeded,
    MessageTooLarge,
    SofsError,
    Unavailable,
)


def requests(rig: Rig) -> list[Any]:
    """What all nodes were asked to change, with its caller."""
    return [b for node in rig.nodes for b in node.seen if getattr(b, "caller", None) is not None]


async def test_first_operation_of_a_client_is_an_empty_reclaim_with_op_id_one() -> None:
    async with rig_of(1) as rig, rig.connect() as share:
        await asyncio.gather(share.mkdir("/a"), share.mkdir("/b"), share.write_file("/c", b"x"))
        first, *others = requests(rig)
        assert isinstance(first, m.Reclaim)
        assert (first.handles, first.caller.op_id) == ([], 1)
        assert sorted(b.caller.op_id for b in others) == [2, 3, 4]


@pytest.mark.parametrize("verdict", [DROP, LOSE])
async def test_registration_is_sent_with_the_same_number_until_it_is_answered(
    verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECLAIM_MS_MAX", 50)
    async with rig_of() as rig:
        verdicts: list[str | SofsError] = [LimitExceeded("full", retry_after_ms=1), verdict]

        def script(body: m.Message) -> str | SofsError | None:
            return verdicts.pop() if isinstance(body, m.Reclaim) and verdicts else None

        for node in rig.nodes:
            node.script = script
        async with rig.connect() as share:
            await share.mkdir("/d")
        asked = [b for b in requests(rig) if isinstance(b, m.Reclaim)]
        assert [b.caller.op_id for b in asked] == [1, 1, 1]


async def test_handles_are_reclaimed_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECLAIM_HANDLES_MAX", 4)
    async with rig_of() as rig, rig.connect() as share:
        files = [await share.open(f"/{i}", "w+b") for i in range(10)]
        first, second = rig.node_of(share), rig.other_than(rig.node_of(share))
        first.kill()
        assert await asyncio.gather(*(file.pwrite(b"x", 0) for file in files)) == [1] * 10
        asked = [len(b.handles) for b in second.seen if isinstance(b, m.Reclaim)]
        assert asked == [4, 4, 2]
        assert share.failovers()[0].handles_lost == 0


async def test_batch_that_is_too_large_is_halved_and_no_handle_is_lost() -> None:
    async with rig_of() as rig, rig.connect() as share:
        files = [await share.open(f"/{i}", "w+b") for i in range(10)]
        first, second = rig.node_of(share), rig.other_than(rig.node_of(share))
        second.script = lambda body: (
            MessageTooLarge("grants")
            if isinstance(body, m.Reclaim) and len(body.handles) > 2
            else None
        )
        first.kill()
        assert await asyncio.gather(*(file.pwrite(b"x", 0) for file in files)) == [1] * 10


@pytest.mark.parametrize("error", [DiskFull("later"), LimitExceeded("later"), Unavailable("later")])
async def test_reclaim_that_is_refused_for_now_loses_no_handle(error: SofsError) -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        first, second = rig.node_of(share), rig.other_than(rig.node_of(share))
        refusals = [error, error]
        second.script = lambda body: (
            refusals.pop() if isinstance(body, m.Reclaim) and refusals else None
        )
        first.kill()
        assert await file.pwrite(b"x", 0) == 1
        assert not refusals


async def test_handles_of_a_forgotten_client_and_those_that_are_gone_are_lost() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        kept, gone = await share.open("/kept", "w+b"), await share.open("/gone", "w+b")
        rig.volume.drop_handle(rig.volume.handles[gone.remote.handle])
        rig.node_of(share).kill()
        assert await kept.pwrite(b"x", 0) == 1
        with pytest.raises(HandleLost):
            await gone.pwrite(b"x", 0)
        left = rig.node_of(share)
        for node in rig.nodes:
            node.script = lambda body: Expired("who?") if isinstance(body, m.Reclaim) else None
        left.kill()
        with pytest.raises((Expired, HandleLost)):
            await kept.pwrite(b"x", 0)
