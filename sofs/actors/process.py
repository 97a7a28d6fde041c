"""One part as an operating-system process without Ray: what tests, and machines without a cluster,
run.

``python -m sofs.actors.process '<PartConfig as JSON>'`` composes the part, writes ``<run
dir>/proc/<name>.json`` (pid, start time, boot id, role, address: what `sofs down` and chaos tests
go by), says ``ready`` on standard output, and serves until SIGTERM. A fatal error ends the process
with status 70: whoever supervises it starts it again, with nothing of its memory.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

import uvloop

from sofs.actors import procfile
from sofs.actors.compose import PartConfig, make_world, part_events, part_recorder, start_part
from sofs.errors import InvariantViolation

EXIT_FATAL: Final = 70
YOUNG_OBJECTS_MAX: Final = 10_000  # Between two looks of the garbage collector.
LOG_BYTES_MAX: Final = 32 * 1024 * 1024  # Then the log is rotated; one old one is kept.


def write_proc_file(config: PartConfig, address: str) -> Path:
    """Record this process under the run directory."""
    facts = procfile.own_facts(config.name, config.role, address, config.run_id)
    return procfile.write(config.run_dir, facts)


def spare_the_collector() -> None:
    """Called once the part runs: what stands then (modules, classes, gRPC) stands for ever, and
    looking through it for garbage would stop the part for 10 ms now and then."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX)


def die(error: BaseException) -> None:
    """End the process at once: what broke must not go on serving."""
    logging.getLogger("sofs").critical("fatal: %r", error, exc_info=error)
    logging.shutdown()
    os._exit(EXIT_FATAL)


def set_up_logging(config: PartConfig) -> None:
    folder = Path(config.run_dir) / "log"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = RotatingFileHandler(
        folder / f"{config.name}.log", maxBytes=LOG_BYTES_MAX, backupCount=1, delay=True
    )
    logging.basicConfig(
        handlers=[handler],
        level=config.log_level,
        format="%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )


def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what asyncio found lying about; a broken invariant ends the process."""
    error = context.get("exception")
    if isinstance(error, InvariantViolation):
        die(error)
    logging.getLogger("sofs").error("asyncio: %s", context["message"], exc_info=error)


async def serve(config: PartConfig) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.set_exception_handler(report)
    world = make_world(config.credential, part_recorder(config), part_events(config))
    part = await start_part(config, die, world=world)
    write_proc_file(config, part.address)
    spare_the_collector()
    print(f"ready {part.address}", flush=True)
    await stop.wait()
    await part.close()
    world.recorder.close()
    world.events.close()


def main() -> None:
    config = PartConfig(**json.loads(sys.argv[1]))
    if config.die_with_parent:
        procfile.die_with_parent()
    set_up_logging(config)
    uvloop.run(serve(config))  # As in Ray's async actors: 4 to 8 % more operations a second.


if __name__ == "__main__":
    main()
