"""Print what the gRPC transport costs on this machine: one server process, one client process.

    python scripts/bench_rpc.py [--seconds 1.0]

The server answers from memory: a round trip here is the floor under every operation. Malloc is told
to keep large blocks, as every actor is (else each megabyte is mapped and returned).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time

from sofs.constants import MIB
from sofs.core.messages import Ping, Pong, Read, ReadReply, Write, WriteReply
from sofs.ports.stream import Envelope, Stream
from sofs.rpc.transport import GrpcTransport

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 * MIB), "MALLOC_TRIM_THRESHOLD_": str(256 * MIB)}
CREDENTIAL = "bench"
BLOCK = bytes(MIB)


class LoopClock:
    """Real time."""

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ns(self) -> int:
        return time.time_ns()

    async def sleep_ms(self, duration_ms: float) -> None:
        await asyncio.sleep(duration_ms / 1000)  # noqa: TID251


async def serve_stream(service: str, stream: Stream) -> None:
    """Answer every request of a frame with one frame."""
    while True:
        replies = []
        for envelope in await stream.receive():
            match envelope.body:
                case Ping(nonce=nonce):
                    replies.append(Envelope(envelope.call, True, Pong(nonce=nonce)))
                case Write(offset=offset):
                    replies.append(Envelope(envelope.call, True, WriteReply(offset)))
                case Read(length=length):
                    replies.append(Envelope(envelope.call, True, ReadReply(), BLOCK[:length]))
        await stream.send(replies)


async def serve() -> None:
    transport = GrpcTransport(CREDENTIAL, LoopClock())
    listener = await transport.listen("127.0.0.1:0", serve_stream)
    print(listener.address, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await listener.close()


async def round_trips(stream: Stream, request: Envelope, depth: int, seconds: float) -> list[float]:
    """Keep ``depth`` requests in flight for ``seconds``; return the time of each, in seconds."""
    sent: list[float] = []
    times: list[float] = []
    end = time.perf_counter() + seconds
    for _ in range(depth):
        sent.append(time.perf_counter())
        await stream.send([request])
    while sent:
        for _ in await stream.receive():
            now = time.perf_counter()
            times.append(now - sent.pop(0))
            if now < end:
                sent.append(now)
                await stream.send([request])
    return times


async def bench(address: str, seconds: float) -> None:
    transport = GrpcTransport(CREDENTIAL, LoopClock())
    stream = await transport.connect(address, "file", timeout_ms=5000)
    small = {
        "ping": Envelope(1, False, Ping(7)),
        "write 4 KiB": Envelope(1, False, Write(5, 1, 9, 8, 4096), BLOCK[:4096]),
        "read 4 KiB": Envelope(1, False, Read(5, 1, 4096, 4096)),
    }
    for name, request in small.items():
        times = await round_trips(stream, request, 1, seconds)
        p50 = statistics.median(times) * 1e6
        print(f"{name:12} 1 in flight: p50 {p50:6.0f} us, {len(times) / sum(times):7.0f}/s")
    large = {
        "write 1 MiB": Envelope(1, False, Write(5, 1, 9, 8, 0), BLOCK),
        "read 1 MiB": Envelope(1, False, Read(5, 1, 0, MIB)),
    }
    for name, request in large.items():
        for depth in (1, 4):
            start = time.perf_counter()
            times = await round_trips(stream, request, depth, seconds)
            rate = len(times) / (time.perf_counter() - start)
            print(f"{name:12} {depth} in flight: {rate:6.0f} MiB/s")
    stream.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what the gRPC transport costs.")
    parser.add_argument("--seconds", type=float, default=1.0, help="per line (default: 1.0)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
        return
    environment = dict(os.environ)  # noqa: TID251
    if environment | MALLOC != environment:
        os.execve(sys.executable, [sys.executable, *sys.argv], environment | MALLOC)
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        asyncio.run(bench(server.stdout.readline().strip(), arguments.seconds))


if __name__ == "__main__":
    main()
