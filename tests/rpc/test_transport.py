"""Streams over gRPC, both ends in one process."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from rpc_loopback import (
    CREDENTIAL,
    WAIT_S,
    Loopback,
    LoopClock,
    blocked,
    nonces,
    ping,
    wait,
)

from sofs.constants import MESSAGE_BYTES_MAX, MIB
from sofs.core.messages import Ping, Read
from sofs.errors import (
    CredentialRefused,
    InvalidParameter,
    InvariantViolation,
    LimitExceeded,
    MessageTooLarge,
    NotSupported,
    ProtocolError,
    ProtocolVersion,
    SofsError,
    Unavailable,
)
from sofs.ports.stream import Envelope, Stream
from sofs.rpc._gen import session_pb2
from sofs.rpc.listener import GrpcListener
from sofs.rpc.options import CREDENTIAL_KEY, METHODS
from sofs.rpc.stream import INBOX_FRAMES_MAX
from sofs.rpc.transport import GrpcTransport


class Held:
    """An accept that hands its streams to the test and keeps them until it is told what to do."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.services: list[str] = []

    async def __call__(self, service: str, stream: Stream) -> None:
        self.services.append(service)
        self.streams.put_nowait(stream)
        await asyncio.shield(self.end)

    def finish(self) -> None:
        if not self.end.done():
            self.end.set_result(None)

    def fail(self, error: BaseException) -> None:
        self.end.set_exception(error)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def fill(stream: Stream) -> None:
    """Send until the stream takes no more."""
    while True:
        await stream.send([Envelope(0, False, Ping(), bytes(MIB))])


# Talking
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", list(METHODS))
async def test_a_stream_reaches_the_service_it_asked_for(loopback: Loopback, service: str) -> None:
    held = Held()
    listener = await loopback.listen(held)
    client = await loopback.connect(listener.address, service)
    server = await wait(asyncio.ensure_future(held.streams.get()))
    assert held.services == [service]
    assert client.peer == listener.address
    assert "127.0.0.1" in server.peer
    held.finish()


async def test_frames_arrive_in_order_with_their_data(loopback: Loopback) -> None:
    listener = await loopback.listen(loopback.echo)
    stream = await loopback.connect(listener.address)
    for nonce in range(50):
        await stream.send(ping(nonce, b"%d" % nonce))
    for nonce in range(50):
        (reply,) = await stream.receive()
        assert nonces([reply]) == [nonce]
        assert bytes(reply.data) == b"%d" % nonce


async def test_both_sides_may_ask(loopback: Loopback) -> None:
    held = Held()
    listener = await loopback.listen(held)
    client = await loopback.connect(listener.address)
    server = await held.streams.get()
    await asyncio.gather(client.send(ping(1)), server.send(ping(2)))
    assert nonces(await server.receive()) == [1]
    assert nonces(await client.receive()) == [2]
    held.finish()


async def test_many_streams_talk_at_once(loopback: Loopback) -> None:
    listener = await loopback.listen(loopback.echo)

    async def talk(number: int) -> None:
        stream = await loopback.connect(listener.address)
        for nonce in range(5):
            await stream.send(ping(1000 * number + nonce, bytes(1000)))
            assert nonces(await stream.receive()) == [1000 * number + nonce]

    await asyncio.gather(*(talk(number) for number in range(64)))


async def test_a_frame_of_the_largest_size_goes_through(loopback: Loopback) -> None:
    listener = await loopback.listen(loopback.echo)
    stream = await loopback.connect(listener.address)
    data = bytes(range(256)) * (MESSAGE_BYTES_MAX // 256 - 1)
    await stream.send(ping(1, data))
    assert bytes((await stream.receive())[0].data) == data


async def test_an_oversize_frame_is_refused_and_the_stream_goes_on(loopback: Loopback) -> None:
    listener = await loopback.listen(loopback.echo)
    stream = await loopback.connect(listener.address)
    with pytest.raises(MessageTooLarge):
        await stream.send(ping(1, bytes(MESSAGE_BYTES_MAX)))
    with pytest.raises(InvalidParameter):
        await stream.send([Envelope(1, False, Read(offset=-1))])
    await stream.send(ping(2))
    assert nonces(await stream.receive()) == [2]


async def test_a_receive_that_was_cancelled_loses_nothing(loopback: Loopback) -> None:
    held = Held()
    listener = await loopback.listen(held)
    client = await loopback.connect(listener.address)
    server = await held.streams.get()
    for reader, writer in ((client, server), (server, client)):
        for nonce in range(3):
            receiving = asyncio.create_task(reader.receive())
            await asyncio.sleep(0)
            receiving.cancel()
            await asyncio.wait([receiving])
            assert receiving.cancelled()
            await writer.send(ping(nonce))
            assert nonces(await reader.receive()) == [nonce]
    held.finish()


async def test_a_receiver_that_is_slow_holds_the_sender_back(loopback: Loopback) -> None:
    held = Held()
    listener = await loopback.listen(held)
    client = await loopback.connect(listener.address)
    server = await held.streams.get()
    sender = await blocked(client)
    for _ in range(3 * INBOX_FRAMES_MAX):
        assert len(await server.receive()) == 1
    sender.cancel()
    await asyncio.wait([sender])
    held.finish()


async def test_a_second_sender_or_receiver_is_an_invariant_violation(loopback: Loopback) -> None:
    held = Held()
    listener = await loopback.listen(held)
    client = await loopback.connect(listener.address)
    sender = await blocked(client)
    with pytest.raises(InvariantViolation):
        await client.send(ping(1))
    receiver = asyncio.create_task(client.receive())
    await asyncio.sleep(0)
    with pytest.raises(InvariantViolation):
        await client.receive()
    client.close()
    for task in (sender, receiver):
        with pytest.raises(Unavailable):
            await wait(task)
    held.finish()


# Ending
# -----------------------------------------------------------------------------------------


async def test_close_ends_pending_and_later_calls_of_both_sides(loopback: Loopback) -> None:
    for closer in (0, 1):
        held = Held()
        listener = await loopback.listen(held)
        sides = [await loopback.connect(listener.address), await held.streams.get()]
        pending = [asyncio.create_task(side.receive()) for side in sides]
        await asyncio.sleep(0)
        sides[closer].close()
        sides[closer].close()
        for task in pending:
            with pytest.raises(Unavailable):
                await wait(task)
        for side in sides:
            with pytest.raises(Unavailable):
                await side.send(ping(1))
            with pytest.raises(Unavailable):
                await side.receive()
        held.finish()


async def test_a_send_that_waits_ends_with_its_stream(loopback: Loopback) -> None:
    for sender, closer in ((0, 0), (0, 1), (1, 0), (1, 1)):
        held = Held()
        listener = await loopback.listen(held)
        sides = [await loopback.connect(listener.address), await held.streams.get()]
        waiting = await blocked(sides[sender])
        sides[closer].close()
        with pytest.raises(Unavailable):
            await wait(waiting)
        assert waiting.cancelling() == 0
        held.finish()


async def test_a_sender_goes_on_after_its_stream_ended(loopback: Loopback) -> None:
    held = Held()
    listener = await loopback.listen(held)
    client = await loopback.connect(listener.address)

    async def sender() -> str:
        try:
            await fill(client)
        except Unavailable:
            await asyncio.sleep(0.01)  # Still able to wait: it was not really cancelled.
        return "went on"

    task = asyncio.create_task(sender())
    await asyncio.sleep(0.5)
    client.close()
    assert await wait(task) == "went on"
    held.finish()


async def test_a_sender_that_is_cancelled_is_cancelled_and_ends_the_stream(
    loopback: Loopback,
) -> None:
    for side in (0, 1):
        held = Held()
        listener = await loopback.listen(held)
        sides = [await loopback.connect(listener.address), await held.streams.get()]
        waiting = await blocked(sides[side])
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        with pytest.raises(Unavailable):
            await sides[side].send(ping(1))
        held.finish()


async def test_a_sender_cancelled_at_the_moment_the_stream_ends_is_cancelled(
    loopback: Loopback,
) -> None:
    held = Held()
    listener = await loopback.listen(held)
    client = await loopback.connect(listener.address)
    waiting = await blocked(client)
    client.close()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    held.finish()


async def test_what_was_sent_before_the_end_is_received_before_it(loopback: Loopback) -> None:
    async def accept(service: str, stream: Stream) -> None:
        for nonce in range(20):
            await stream.send(ping(nonce, bytes(10_000)))
        if service == "volume":
            raise LimitExceeded("of this test")

    listener = await loopback.listen(accept)
    for service, reason in (("file", "ended the stream"), ("volume", "of this test")):
        client = await loopback.connect(listener.address, service)
        for nonce in range(20):
            assert nonces(await client.receive()) == [nonce]
        with pytest.raises(Unavailable, match=reason):
            await client.receive()
        with pytest.raises(Unavailable):
            await client.send(ping(1))


async def test_an_accept_sees_its_peer_leave_as_unavailable_not_as_cancellation(
    loopback: Loopback,
) -> None:
    seen: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def accept(service: str, stream: Stream) -> None:
        try:
            await stream.receive()
        except BaseException as error:
            seen.set_result(error)
            await asyncio.sleep(0.01)  # It may still finish what it has to.
            seen_after.set_result(None)
            raise

    seen_after: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    listener = await loopback.listen(accept)
    (await loopback.connect(listener.address)).close()
    assert isinstance(await wait(seen), Unavailable)
    await wait(seen_after)


@pytest.mark.parametrize("error", [RuntimeError("a defect"), InvariantViolation("a rule broke")])
async def test_an_accept_that_fails_ends_its_stream_and_is_loud(
    loopback: Loopback, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    held = Held()
    listener = await loopback.listen(held)
    client = await loopback.connect(listener.address)
    with caplog.at_level(logging.ERROR, "sofs.rpc"):
        held.fail(error)
        with pytest.raises(Unavailable, match="file service failed"):
            await client.receive()
    assert [context["exception"] for context in told] == [error]
    assert any(record.exc_info and record.exc_info[1] is error for record in caplog.records)
    asyncio.get_running_loop().set_exception_handler(None)


async def test_an_accept_that_ends_with_a_known_error_is_quiet(
    loopback: Loopback, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held()
    listener = await loopback.listen(held)
    client = await loopback.connect(listener.address)
    held.fail(LimitExceeded("too many sessions"))
    with caplog.at_level(logging.WARNING):
        with pytest.raises(Unavailable, match="too many sessions"):
            await client.receive()
    assert not caplog.records


async def test_closing_the_listener_ends_its_streams(loopback: Loopback) -> None:
    listener = await loopback.listen(loopback.echo)
    clients = [await loopback.connect(listener.address) for _ in range(5)]
    await listener.close()
    await listener.close()
    for client in clients:
        # On a machine that is busy for longer than STOP_GRACE_MS gRPC's own words arrive.
        with pytest.raises(Unavailable, match=r"was closed|Cancelling all calls"):
            await client.receive()
    with pytest.raises(Unavailable):
        await loopback.connect(listener.address)


async def test_an_accept_that_outlives_its_listener_is_cancelled(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sofs.rpc.listener.CLOSE_MS_MAX", 1)
    held = Held()
    listener = await loopback.listen(held)
    await loopback.connect(listener.address)
    await wait(asyncio.ensure_future(held.streams.get()))
    await listener.close()
    assert "outlived" in caplog.text
    held.finish()


class Aborted(Exception):
    """How a call ends that is aborted."""


async def test_a_call_whose_listener_closes_while_it_is_accepted_is_not_served(
    loopback: Loopback,
) -> None:
    held = Held()
    listener = await loopback.listen(held)
    assert isinstance(listener, GrpcListener)

    class Context:
        async def send_initial_metadata(self, _: object) -> None:
            await listener.close()

        async def abort(self, status: grpc.StatusCode, details: str) -> None:
            raise Aborted(status, details)

    serve = listener._serving(METHODS["file"], ((CREDENTIAL_KEY, CREDENTIAL),))
    assert serve is not None
    with pytest.raises(Aborted, match="UNAVAILABLE"):
        await serve(None, Context())
    await asyncio.sleep(0)
    assert held.services == []


# Connecting
# -----------------------------------------------------------------------------------------


async def test_a_connect_is_complete_only_when_the_server_accepted(loopback: Loopback) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()  # The kernel takes the connection, nobody speaks gRPC.
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(Unavailable, match="within 200 ms") as caught:
            await loopback.transport.connect(address, "file", timeout_ms=200)
        assert not caught.value.refused


async def test_a_port_that_nobody_listens_on_is_refused(loopback: Loopback) -> None:
    address = f"127.0.0.1:{free_port()}"
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            await loopback.connect(address)
        assert caught.value.refused


async def test_a_server_that_appears_is_reached_by_the_next_connect(loopback: Loopback) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable):
        await loopback.connect(address)
    listener = await loopback.listen(loopback.echo, address)
    assert listener.address == address
    stream = await loopback.connect(address)
    await stream.send(ping(1))
    assert nonces(await stream.receive()) == [1]


async def test_a_connect_that_is_cancelled_leaves_nothing(loopback: Loopback) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        connecting = asyncio.create_task(loopback.connect(address))
        await asyncio.sleep(0.01)
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()


async def test_the_wrong_credential_is_refused_before_the_service_hears_of_it(
    loopback: Loopback,
) -> None:
    held = Held()
    listener = await loopback.listen(held)
    for credential in ("wrong", CREDENTIAL[:-1], CREDENTIAL + "c"):
        stranger = GrpcTransport(credential, LoopClock())
        with pytest.raises(CredentialRefused):
            await stranger.connect(listener.address, "file", timeout_ms=WAIT_S * 1000)
    await loopback.connect(listener.address)
    await wait(asyncio.ensure_future(held.streams.get()))
    assert held.services == ["file"]
    held.finish()


@pytest.mark.parametrize(
    "metadata",
    [(), ((CREDENTIAL_KEY, ""),), ((CREDENTIAL_KEY, CREDENTIAL), (CREDENTIAL_KEY, "other"))],
    ids=["none", "empty", "two"],
)
async def test_a_call_without_exactly_the_credential_ends_although_messages_wait(
    loopback: Loopback, metadata: tuple[tuple[str, str], ...]
) -> None:
    held = Held()
    listener = await loopback.listen(held)
    async with grpc.aio.insecure_channel(listener.address) as channel:
        call: Any = channel.stream_stream(METHODS["file"])(metadata=metadata)
        await asyncio.wait([asyncio.create_task(call.write(b"\xff" * 1000))])
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert held.services == []


async def test_an_unknown_service_is_not_supported(loopback: Loopback) -> None:
    listener = await loopback.listen(loopback.echo)
    with pytest.raises(InvalidParameter, match="resume_key"):
        await loopback.connect(listener.address, "files")
    async with grpc.aio.insecure_channel(listener.address) as channel:
        call: Any = channel.stream_stream("/sofs.v1.Nothing/Session")(
            metadata=((CREDENTIAL_KEY, CREDENTIAL),)
        )
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
    assert NotSupported.definite


async def test_a_taken_port_is_replaced_by_a_free_one(loopback: Loopback) -> None:
    first = await loopback.listen(loopback.echo)
    second = await loopback.listen(loopback.echo, first.address)
    assert second.address != first.address
    assert second.address.startswith("127.0.0.1:")
    for listener in (first, second):
        await loopback.connect(listener.address)


async def test_two_loopback_addresses_may_share_a_port(loopback: Loopback) -> None:
    first = await loopback.listen(loopback.echo, "127.0.0.11:0")
    port = first.address.rpartition(":")[2]
    second = await loopback.listen(loopback.echo, f"127.0.0.12:{port}")
    assert second.address == f"127.0.0.12:{port}"


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "10.1.2.3:0", "example.org:0"])
async def test_addresses_outside_the_loopback_are_refused(loopback: Loopback, address: str) -> None:
    with pytest.raises(InvalidParameter, match="TLS"):
        await loopback.listen(loopback.echo, address)
    with pytest.raises(InvalidParameter, match="TLS"):
        await loopback.connect(address)


@pytest.mark.parametrize("credential", ["", "nul\0", "ümlaut", "line\n"])
def test_a_credential_that_metadata_cannot_carry_is_refused(credential: str) -> None:
    with pytest.raises(InvalidParameter):
        GrpcTransport(credential, LoopClock())


# Peers that do not speak the protocol
# -----------------------------------------------------------------------------------------


async def raw_call(channel: grpc.aio.Channel, *messages: bytes) -> Any:
    call: Any = channel.stream_stream(METHODS["file"])(metadata=((CREDENTIAL_KEY, CREDENTIAL),))
    for message in messages:
        await call.write(message)
    return call


@pytest.mark.parametrize(
    ("message", "status", "error"),
    [
        (b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, ProtocolError),
        (b"", grpc.StatusCode.INVALID_ARGUMENT, ProtocolError),
        (
            session_pb2.Frame(protocol_version=9).SerializeToString(),
            grpc.StatusCode.FAILED_PRECONDITION,
            ProtocolVersion,
        ),
    ],
    ids=["garbage", "nothing", "version"],
)
@pytest.mark.parametrize("caught_by_service", [False, True])
async def test_a_message_that_is_no_frame_ends_its_stream_and_no_other(
    loopback: Loopback,
    message: bytes,
    status: grpc.StatusCode,
    error: type[SofsError],
    caught_by_service: bool,
) -> None:
    seen: list[SofsError] = []

    async def accept(service: str, stream: Stream) -> None:
        try:
            await loopback.echo(service, stream)
        except SofsError as error:
            seen.append(error)
            if not caught_by_service:
                raise
        with pytest.raises(Unavailable):
            await stream.receive()

    listener = await loopback.listen(accept)
    other = await loopback.connect(listener.address)
    async with grpc.aio.insecure_channel(listener.address) as channel:
        call = await raw_call(channel, message)
        assert await call.code() is status
    assert [type(e) for e in seen] == [error]
    await other.send(ping(5))
    assert nonces(await other.receive()) == [5]


async def test_a_server_that_sends_garbage_ends_the_stream_with_a_protocol_error(
    loopback: Loopback,
) -> None:
    held = Held()
    listener = await loopback.listen(held)
    client = await loopback.connect(listener.address)
    server = await held.streams.get()
    await cast("Any", server)._write(b"\x08\x01\x12\xff")
    with pytest.raises(ProtocolError):
        await client.receive()
    with pytest.raises(Unavailable):
        await client.receive()
    with pytest.raises(Unavailable):
        await server.receive()
    held.finish()


async def test_the_refusal_of_the_peer_is_told_as_what_it_is(loopback: Loopback) -> None:
    listener = await loopback.listen(loopback.echo)
    for message, error in (
        (b"\xff", ProtocolError),
        (session_pb2.Frame(protocol_version=9).SerializeToString(), ProtocolVersion),
    ):
        client = await loopback.connect(listener.address)
        await cast("Any", client)._write(message)
        with pytest.raises(error):
            await client.receive()
        with pytest.raises(Unavailable):
            await client.receive()


async def test_a_message_over_the_limit_ends_its_stream_and_no_other(loopback: Loopback) -> None:
    listener = await loopback.listen(loopback.echo)
    other = await loopback.connect(listener.address)
    options = (("grpc.max_send_message_length", -1),)
    async with grpc.aio.insecure_channel(listener.address, options=options) as channel:
        call = await raw_call(channel, bytes(MESSAGE_BYTES_MAX + 1))
        assert await call.code() is not grpc.StatusCode.OK
    await other.send(ping(5))
    assert nonces(await other.receive()) == [5]


async def test_a_client_that_ends_its_half_ends_the_stream(loopback: Loopback) -> None:
    listener = await loopback.listen(loopback.echo)
    async with grpc.aio.insecure_channel(listener.address) as channel:
        call = await raw_call(channel)
        await call.done_writing()
        assert await wait(asyncio.ensure_future(call.code())) is grpc.StatusCode.UNAVAILABLE


async def test_a_loop_may_end_after_its_transport_was_closed_while_another_goes_on(
    loopback: Loopback,
) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    listener = await loopback.listen(loopback.echo)

    async def visit() -> None:
        transport = GrpcTransport(CREDENTIAL, LoopClock())
        for _ in range(3):
            stream = await transport.connect(listener.address, "file", timeout_ms=WAIT_S * 1000)
            await stream.send(ping(1))
            await stream.receive()
        await transport.close()
        await transport.close()
        with pytest.raises(Unavailable):
            await stream.receive()

    stream = await loopback.connect(listener.address)
    for _ in range(5):
        visitor = asyncio.create_task(asyncio.to_thread(asyncio.run, visit()))
        while not visitor.done():
            await stream.send(ping(2))
            assert nonces(await stream.receive()) == [2]
        await visitor
    asyncio.get_running_loop().set_exception_handler(None)
    assert told == []
