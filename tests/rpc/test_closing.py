"""Event loops that end while others of the process go on: gRPC has nothing more to tell them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LOOPS = """
import asyncio, sys, threading
from rpc_loopback import Loopback, ping

CONNECTS, LOOPS = 4, 120
ready, over = threading.Event(), threading.Event()

async def serve():
    # This loop goes on for as long as the process, and is busy with streams of its own.
    global address
    there = Loopback()
    listener = await there.listen(there.echo)
    address = listener.address
    stream = await there.connect(address)
    ready.set()
    while not over.is_set():
        await stream.send(ping(1))
        await stream.receive()
    await there.close()

thread = threading.Thread(target=lambda: asyncio.run(serve()))
thread.start()
ready.wait()

async def dial(number):
    here = Loopback()
    dials = [asyncio.ensure_future(here.connect(address)) for _ in range(CONNECTS)]
    for _ in range(number % 12):
        await asyncio.sleep(0)
    for dial in dials:
        dial.cancel()
    await here.close()

for number in range(LOOPS):
    asyncio.run(dial(number))
over.set()
thread.join()
print("done")
"""


def test_a_loop_that_ends_with_connects_under_way_hears_nothing_more() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOPS],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "done\n"
