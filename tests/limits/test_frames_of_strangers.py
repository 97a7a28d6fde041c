"""Bytes that are no frames, from somebody who has the credential: they end their own stream and
nothing else."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import pytest

from sofs.constants import FRAME_MESSAGES_MAX, MESSAGE_BYTES_MAX
from sofs.core import messages as m
from sofs.ports.stream import Envelope
from sofs.rpc._gen import session_pb2
from sofs.rpc.frames import encode
from sofs.rpc.options import CREDENTIAL_KEY, METHODS
from sofs.testing import LocalCluster

pytestmark = pytest.mark.usefixtures("unharmed")

GREETING = encode([Envelope(1, False, m.Hello(1, client=b"g" * 16, share="share"))])
ENDINGS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,  # Of our own gRPC: we wrote to a stream that had ended already.
}


async def sent(cluster: LocalCluster, service: str, *messages: bytes) -> grpc.StatusCode:
    """Send raw messages on one stream, read until it ends, and return how."""
    options = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    address = cluster.addresses[0]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        metadata = ((CREDENTIAL_KEY, cluster.credential),)
        call: Any = channel.stream_stream(METHODS[service])(metadata=metadata)
        try:
            for message in messages:
                await call.write(message)
            while await call.read() is not grpc.aio.EOF:
                pass
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # It ended; the latter is what a write says that came after that.
        code: grpc.StatusCode = await call.code()
        return code


def of_version(version: int) -> bytes:
    return session_pb2.Frame(protocol_version=version).SerializeToString()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0",
        b"\xff" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
        of_version(0),
        of_version(2),
        of_version(2**32 - 1),
        GREETING[:-1],
        GREETING + b"\x7a\x05abc",
        bytes(MESSAGE_BYTES_MAX),
        bytes(MESSAGE_BYTES_MAX + 1),
        encode([Envelope(0, False, m.Done())] * FRAME_MESSAGES_MAX)
        + encode([Envelope(0, False, m.Done())])[2:],
    ],
    ids=lambda message: f"{len(message)} bytes {message[:8].hex()}",
)
async def test_bytes_that_are_no_frame_end_their_stream(
    cluster: LocalCluster, message: bytes
) -> None:
    for service in METHODS:
        assert await sent(cluster, service, message) in ENDINGS
        assert await sent(cluster, service, GREETING, message) in ENDINGS


async def test_random_bytes_and_damaged_frames_end_their_stream(
    cluster: LocalCluster,
) -> None:
    draw = random.Random("frames of strangers")
    for _ in range(60):
        frame = bytearray(
            encode([Envelope(draw.getrandbits(8), False, m.Mkdir(m.Caller(op_id=9), "/damaged"))])
        )
        for _ in range(draw.randrange(1, 6)):
            frame[draw.randrange(len(frame))] = draw.getrandbits(8)
        noise = draw.randbytes(draw.randrange(200))
        for message in (bytes(frame), noise):
            assert await sent(cluster, "file", GREETING, message, b"\xff") in ENDINGS


async def test_a_stream_without_a_credential_is_refused_whatever_it_asks_for(
    cluster: LocalCluster,
) -> None:
    async with grpc.aio.insecure_channel(cluster.addresses[0]) as channel:
        for metadata in (
            (),
            ((CREDENTIAL_KEY, ""),),
            ((CREDENTIAL_KEY, cluster.credential), (CREDENTIAL_KEY, cluster.credential)),
            ((CREDENTIAL_KEY, cluster.credential + "x"),),
        ):
            call: Any = channel.stream_stream(METHODS["file"])(metadata=metadata)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        unknown: Any = channel.stream_stream("/sofs.v1.Nothing/Session")(
            metadata=((CREDENTIAL_KEY, cluster.credential),)
        )
        assert await unknown.code() is grpc.StatusCode.UNIMPLEMENTED
