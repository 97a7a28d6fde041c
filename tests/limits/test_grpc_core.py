"""A process that closes its streams soon after a peer froze lives on: see ``sofs/rpc/__init__.py``.

Memory that is freed is overwritten here, so that who still uses it is found at once and not in one
run of forty.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RPC_TESTS = Path(__file__).parent.parent / "rpc"
WAIT_S = 60  # It takes 20.
OVERWRITE_FREED = {"MALLOC_PERTURB_": "165"}
CLOSES = """
import asyncio, gc, os, signal, sys, time
from rpc_loopback import Loopback, blocked
from sofs.errors import Unavailable

def threads(name):
    found = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as comm:
                found += comm.read().strip() == name
        except FileNotFoundError:
            pass
    return found

async def use(peer, address):
    loopback = Loopback()
    stream = await loopback.connect(address)
    os.kill(peer, signal.SIGSTOP)
    sender = await blocked(stream)
    stream.close()
    await asyncio.wait([sender])
    assert isinstance(sender.exception(), Unavailable)
    await loopback.close()

asyncio.run(use(int(sys.argv[1]), sys.argv[2]))
gc.collect()  # The last objects of gRPC, but for the one that keeps its core.
print("closed", flush=True)
while threads("event_engine"):
    time.sleep(0.05)
print("lives", flush=True)
"""


def test_who_closes_its_streams_after_a_peer_froze_is_not_killed_by_grpc() -> None:
    serve = [sys.executable, "rpc_server_process.py"]
    with subprocess.Popen(serve, cwd=RPC_TESTS, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None
        try:
            done = subprocess.run(
                [sys.executable, "-c", CLOSES, str(peer.pid), peer.stdout.readline().strip()],
                cwd=RPC_TESTS,
                env=os.environ | OVERWRITE_FREED,
                capture_output=True,
                text=True,
                timeout=WAIT_S,  # Without its core gRPC waits for ever, if it does not crash.
            )
        finally:
            peer.kill()
    assert (done.stdout, done.stderr, done.returncode) == ("closed\nlives\n", "", 0)
