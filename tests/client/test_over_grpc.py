"""The same client over real sockets: what the in-process hub cannot show."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from client_rig import Rig, until
from mini_cluster import DROP

from sofs.client.aio import connect
from sofs.constants import MIB
from sofs.core import messages as m
from sofs.rpc.transport import GrpcTransport
from sofs.storage.runtime import SystemClock

CREDENTIAL = "c" * 43

LEAVES_BLOCKING = """
import sofs, sys
share = sofs.connect(sys.argv[1], credential=sys.argv[2])
file = share.open("/left-open", "w+b")
file.write(b"x")
"""
LEAVES_ASYNCHRONOUS = """
import asyncio, sys
from sofs.client.aio import connect
async def main():
    global share, file
    share = await connect(sys.argv[1], credential=sys.argv[2])
    file = await share.open("/left-open", "w+b")
    await file.pwrite(b"x", 0)
asyncio.run(main())
"""


@asynccontextmanager
async def grpc_rig() -> AsyncIterator[tuple[Rig, GrpcTransport]]:
    rig = Rig(2)
    transport = GrpcTransport(CREDENTIAL, SystemClock())
    for node in rig.nodes:
        node.address = "127.0.0.1:0"
        await node.start(transport)
    yield rig, transport
    for node in rig.nodes:
        assert node.listener is not None
        await node.listener.close()
        assert not node.crashes


async def test_large_data_comes_back_whole_over_grpc() -> None:
    async with grpc_rig() as (rig, transport):
        data = os.urandom(9 * MIB + 1)
        async with connect(rig.url, transport=transport, witness=False) as share:
            async with await share.open("/big", "w+b") as file:
                await file.pwrite(data, 0)
                assert await file.pread(len(data), 0) == data


async def test_failover_over_grpc_replays_what_the_dead_node_did_not_answer() -> None:
    async with grpc_rig() as (rig, transport):
        async with connect(rig.url, transport=transport, witness=False) as share:
            file = await share.open("/a", "w+b")
            await until(lambda: share.facts().warm_address)
            node = rig.node_of(share)
            node.script = lambda body: DROP if isinstance(body, m.Write) else None
            pending = [asyncio.create_task(file.append(bytes([i]))) for i in range(20)]
            await until(lambda: sum(isinstance(b, m.Write) for b in node.seen) == 20)
            assert node.listener is not None
            await node.listener.close()
            assert await asyncio.gather(*pending) == list(range(20))
            assert share.failovers()[0].warm
            assert len(rig.volume.executed) == 20


@pytest.mark.parametrize("program", [LEAVES_BLOCKING, LEAVES_ASYNCHRONOUS])
async def test_application_that_ends_without_closing_its_share_ends_quietly(program: str) -> None:
    async with grpc_rig() as (rig, _):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore::ResourceWarning", "-c", program, rig.url, CREDENTIAL),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert (process.returncode, said.decode()) == (0, "")
        assert bytes(rig.volume.files["/left-open"].data) == b"x"
