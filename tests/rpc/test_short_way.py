"""How gRPC waits for sockets. It is decided once for a process, so each test has one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sofs.rpc import EXPERIMENTS_VARIABLE, FORK_VARIABLE

ROUND_TRIPS = 500
# Round trips within one process. The threads of gRPC's event engine wake for each of them, unless
# what arrives does not go through them.
TALK = f"""
import asyncio, os
from pathlib import Path
from rpc_loopback import Loopback, nonces, ping

def wake_ups():
    found = 0
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == "event_engine":
            status = (task / "status").read_text().split()
            found += int(status[status.index("voluntary_ctxt_switches:") + 1])
    return found

async def main():
    loopback = Loopback()
    listener = await loopback.listen(loopback.echo)
    stream = await loopback.connect(listener.address)
    before = wake_ups()
    for n in range({ROUND_TRIPS}):
        await stream.send(ping(n))
        assert nonces(await stream.receive()) == [n]
    print(wake_ups() - before, os.environ.get("{EXPERIMENTS_VARIABLE}", "unset"))
    assert "{FORK_VARIABLE}" not in os.environ
    await loopback.close()

asyncio.run(main())
"""


def talk(experiments: str | None) -> tuple[int, str, str]:
    """Return the wake-ups of the event engine, the variable as it was then, and what gRPC said."""
    environment = {
        k: v for k, v in os.environ.items() if k not in (EXPERIMENTS_VARIABLE, FORK_VARIABLE)
    }
    if experiments is not None:
        environment[EXPERIMENTS_VARIABLE] = experiments
    done = subprocess.run(
        [sys.executable, "-c", TALK],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    count, variable = done.stdout.split()
    return int(count), variable, done.stderr


def test_what_arrives_does_not_go_through_the_event_engine() -> None:
    wake_ups, variable, said = talk(None)
    assert variable == "unset"  # Processes that are started by this one choose for themselves.
    assert said == ""  # gRPC complains of a name that its version does not have.
    assert wake_ups < ROUND_TRIPS


@pytest.mark.parametrize("chosen", ["event_engine_listener", "-event_engine_dns"])
def test_who_chose_experiments_keeps_them(chosen: str) -> None:
    wake_ups, variable, _ = talk(chosen)
    assert variable == chosen
    assert wake_ups > ROUND_TRIPS
