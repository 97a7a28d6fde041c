"""The metrics process of a run directory: reads rings, asks parts, answers Prometheus.

Off unless SOFS_METRICS_PORT is set: a port of the loopback address, or 0 for a free one, which
``<run dir>/trace/metrics.address`` then names. A helper of the parts (``telemetry.helper``); parts
pass it their credential in its environment.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

from sofs.actors import procfile
from sofs.errors import SofsError
from sofs.rpc.credential import CREDENTIAL_VARIABLE
from sofs.rpc.transport import GrpcTransport
from sofs.services.leader.ask import part_state
from sofs.storage import SystemClock
from sofs.telemetry import helper
from sofs.telemetry.metrics import Metrics
from sofs.telemetry.ring import METRICS_VARIABLE, sdk_folder

ADDRESS_FILE: Final = "metrics.address"
POLL_MS: Final = 500
ASK_EVERY: Final = 4  # Polls.


async def serve(folder: Path, port: int, credential: str) -> None:
    """Serve until the process ends."""
    metrics = Metrics()
    clock = SystemClock()
    transport = GrpcTransport(credential, clock)
    address = metrics.serve(port)
    partial = folder / f".{ADDRESS_FILE}"
    partial.write_text(address)
    os.replace(partial, folder / ADDRESS_FILE)
    polls = 0
    while True:
        metrics.poll(folder, sdk_folder(os.environ))
        if polls % ASK_EVERY == 0:
            metrics.facts = await ask_all(folder.parent, clock, transport)
        polls += 1
        await clock.sleep_ms(POLL_MS)


async def ask_all(
    run_dir: Path, clock: SystemClock, transport: GrpcTransport
) -> dict[str, dict[str, str]]:
    """What all parts of a run say of themselves, by name; those that do not answer are left out."""

    async def ask(part: procfile.ProcFacts) -> tuple[str, dict[str, str]] | None:
        try:
            reply = await part_state(clock, transport, part.address)
        except SofsError:
            return None
        facts = dict(fact.split("=", 1) for fact in reply.facts if "=" in fact)
        return part.name, facts

    parts = [part for part in procfile.read_all(run_dir) if part.address and procfile.alive(part)]
    answers = await asyncio.gather(*map(ask, parts))
    return dict(answer for answer in answers if answer is not None)


def main() -> None:
    """The process; see ``telemetry.helper``."""
    folder = helper.begin(sys.argv)
    port = int(os.environ[METRICS_VARIABLE])
    asyncio.run(serve(folder, port, os.environ.get(CREDENTIAL_VARIABLE, "")))


if __name__ == "__main__":
    main()
