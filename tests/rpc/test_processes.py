"""Streams to another process that is killed or frozen."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rpc_loopback import WAIT_S, Loopback, nonces, ping, wait

from sofs.constants import MIB
from sofs.errors import Unavailable
from sofs.ports.stream import Stream

SCRIPT = Path(__file__).with_name("rpc_server_process.py")


class Server:
    """A server process and its address."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, SCRIPT], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)
        if number is signal.SIGKILL:
            self.process.wait()
        elif number is signal.SIGSTOP:
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


async def talk(stream: Stream, nonce: int) -> None:
    await stream.send(ping(nonce))
    assert nonces(await wait(asyncio.ensure_future(stream.receive()))) == [nonce]


async def fill(stream: Stream) -> None:
    while True:
        await stream.send(ping(1, bytes(MIB)))


async def test_a_killed_peer_ends_streams_at_once_and_the_next_connect_is_refused(
    loopback: Loopback, server: Server
) -> None:
    streams = [await loopback.connect(server.address) for _ in range(8)]
    for nonce, stream in enumerate(streams):
        await talk(stream, nonce)
    pending = [asyncio.create_task(stream.receive()) for stream in streams]
    sender = asyncio.create_task(fill(streams[0]))
    await asyncio.sleep(0)
    server.signal(signal.SIGKILL)
    for task in (*pending[1:], sender):
        with pytest.raises(Unavailable) as caught:
            await wait(task)
        assert not caught.value.refused
    await asyncio.wait([pending[0]])
    with pytest.raises(Unavailable):
        await streams[1].send(ping(1))
    with pytest.raises(Unavailable) as caught:
        await loopback.connect(server.address)
    assert caught.value.refused


async def test_a_frozen_peer_is_silent_and_goes_on_when_it_thaws(
    loopback: Loopback, server: Server
) -> None:
    stream = await loopback.connect(server.address)
    await talk(stream, 1)
    server.signal(signal.SIGSTOP)
    await stream.send(ping(2))
    receiving = asyncio.create_task(stream.receive())
    assert not (await asyncio.wait([receiving], timeout=0.5))[0]
    with pytest.raises(Unavailable, match="within 300 ms") as caught:
        await loopback.transport.connect(server.address, "file", timeout_ms=300)
    assert not caught.value.refused
    assert not receiving.done()
    server.signal(signal.SIGCONT)
    assert nonces(await wait(receiving)) == [2]


async def test_the_port_of_a_frozen_peer_is_not_shared(loopback: Loopback, server: Server) -> None:
    server.signal(signal.SIGSTOP)
    listener = await loopback.listen(loopback.echo, server.address)
    assert listener.address != server.address
    stream = await loopback.connect(listener.address)
    await talk(stream, 1)


async def test_a_stream_to_a_frozen_peer_can_be_closed(loopback: Loopback, server: Server) -> None:
    stream = await loopback.connect(server.address)
    await talk(stream, 1)
    server.signal(signal.SIGSTOP)
    sender = asyncio.create_task(fill(stream))
    receiver = asyncio.create_task(stream.receive())
    assert not (await asyncio.wait([sender, receiver], timeout=0.3))[0]
    stream.close()
    for task in (sender, receiver):
        with pytest.raises(Unavailable):
            await wait(task)


async def start_client(address: str) -> asyncio.subprocess.Process:
    """Return a process that has a stream to ``address`` and receives one frame after another."""
    script = (
        "import asyncio\n"
        "from rpc_loopback import Loopback, ping\n"
        "async def main():\n"
        f"    stream = await Loopback().connect({address!r})\n"
        "    await stream.send(ping(1))\n"
        "    await stream.receive()\n"
        "    print('connected', flush=True)\n"
        "    while True: await stream.receive()\n"
        "asyncio.run(main())\n"
    )
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=SCRIPT.parent
    )
    assert client.stdout is not None
    assert (await asyncio.wait_for(client.stdout.readline(), WAIT_S)).strip() == b"connected"
    return client


async def test_a_server_notices_a_killed_client(loopback: Loopback) -> None:
    left: asyncio.Future[Unavailable] = asyncio.get_running_loop().create_future()

    async def accept(service: str, stream: Stream) -> None:
        try:
            await loopback.echo(service, stream)
        except Unavailable as error:
            left.set_result(error)

    listener = await loopback.listen(accept)
    client = await start_client(listener.address)
    assert not left.done()
    client.kill()
    assert not (await wait(left)).refused
    await client.wait()


@pytest.mark.parametrize("by_listener", [False, True])
async def test_a_stream_and_a_listener_with_a_frozen_client_can_be_closed(
    loopback: Loopback, by_listener: bool
) -> None:
    ended: asyncio.Future[Unavailable] = asyncio.get_running_loop().create_future()
    streams: list[Stream] = []

    async def accept(service: str, stream: Stream) -> None:
        streams.append(stream)
        await stream.send(await stream.receive())
        try:
            await fill(stream)
        except Unavailable as error:
            ended.set_result(error)

    listener = await loopback.listen(accept)
    client = await start_client(listener.address)
    try:
        os.kill(client.pid, signal.SIGSTOP)
        assert not (await asyncio.wait([ended], timeout=0.3))[0]
        if by_listener:
            await asyncio.wait_for(listener.close(), WAIT_S)
        else:
            streams[0].close()
        assert "closed" in str(await wait(ended))
        await asyncio.wait_for(listener.close(), WAIT_S)
        again = await loopback.listen(loopback.echo, listener.address)
        assert again.address == listener.address
    finally:
        client.kill()
        await client.wait()
