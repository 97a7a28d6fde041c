"""How a channel makes frames of what is posted to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sofs.core.messages import Ping, Write
from sofs.errors import Unavailable
from sofs.ports.stream import Envelope
from sofs.services.channel import FRAME_BULK_BYTES, Channel
from sofs.storage import SystemClock


class Recorded:
    """A stream that keeps the frames it is given, and says when there are ``count`` messages."""

    peer = "test"

    def __init__(self, count: int) -> None:
        self.frames: list[list[Envelope]] = []
        self._left = count
        self.all_sent = asyncio.Event()
        self._end = asyncio.Event()

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        self.frames.append(list(envelopes))
        self._left -= len(envelopes)
        if self._left <= 0:
            self.all_sent.set()

    async def receive(self) -> list[Envelope]:
        await self._end.wait()
        raise Unavailable("ended")

    def close(self) -> None:
        self._end.set()


async def sent(*bodies: tuple[Ping | Write, bytes], turns: bool = False) -> list[list[Envelope]]:
    stream = Recorded(len(bodies))
    crashes: list[BaseException] = []
    channel = Channel(
        stream, SystemClock(), lambda c, e: None, name="test", on_crash=crashes.append
    )
    channel.start()
    await asyncio.sleep(0)  # Its writer waits for something to write.
    for body, data in bodies:
        channel.notify(body, data)
        if turns:
            await asyncio.sleep(0)
    await stream.all_sent.wait()
    await channel.close()
    assert not crashes
    return stream.frames


async def test_large_messages_travel_one_a_frame() -> None:
    large = bytes(FRAME_BULK_BYTES)
    frames = await sent(*[(Write(1, 1, n), large) for n in range(4)])
    assert [len(frame) for frame in frames] == [1, 1, 1, 1]


async def test_what_is_asked_for_in_one_turn_is_one_frame() -> None:
    frames = await sent(*[(Ping(n), b"") for n in range(8)])
    assert [len(frame) for frame in frames] == [8]


async def test_what_another_asks_for_in_the_next_turn_goes_along() -> None:
    frames = await sent((Ping(1), b""), (Ping(2), b""), turns=True)
    assert [len(frame) for frame in frames] == [2]


async def test_a_frame_ends_before_the_message_that_is_too_much_for_it() -> None:
    part = bytes(FRAME_BULK_BYTES // 3)
    frames = await sent(*[(Write(1, 1, n), part) for n in range(7)])
    assert [len(frame) for frame in frames] == [2, 2, 2, 1]
    assert [e.body.op_sequence for frame in frames for e in frame] == list(range(7))
