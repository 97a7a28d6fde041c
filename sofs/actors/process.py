"""One part as an operating-system process without Ray: what tests, and machines without a cluster,
run.

``python -m sofs.actors.process '<PartConfig as JSON>'`` composes the part, writes ``<run
dir>/proc/<name>.json`` (pid, start time, boot id, role, address: what `sofs down` and chaos tests
go by), says ``ready`` on standard output, and serves until SIGTERM. A fatal error ends the process
with status 70: whoever supervises it starts it again, with nothing of its memory.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

from sofs.actors.compose import PartConfig, start_part
from sofs.errors import InvariantViolation

EXIT_FATAL: Final = 70
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def boot_id() -> str:
    """Identity of this boot of the machine: a pid means nothing after another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; with the pid it names a process for
    ever."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[19])


def write_proc_file(config: PartConfig, address: str) -> Path:
    """Record this process under the run directory; replaced atomically."""
    folder = Path(config.run_dir) / "proc"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = {
        "name": config.name,
        "role": config.role,
        "pid": os.getpid(),
        "start_ticks": start_ticks(os.getpid()),
        "boot_id": boot_id(),
        "address": address,
    }
    path = folder / f"{config.name}.json"
    partial = folder / f".{config.name}.{os.getpid()}"
    partial.write_text(json.dumps(facts))
    os.replace(partial, path)
    return path


def die(error: BaseException) -> None:
    """End the process at once: what broke must not go on serving."""
    logging.getLogger("sofs").critical("fatal: %r", error, exc_info=error)
    logging.shutdown()
    os._exit(EXIT_FATAL)


def set_up_logging(config: PartConfig) -> None:
    folder = Path(config.run_dir) / "log"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    logging.basicConfig(
        filename=folder / f"{config.name}.log",
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


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it ends, however it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


async def serve(config: PartConfig) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.set_exception_handler(report)
    part = await start_part(config, die)
    write_proc_file(config, part.address)
    print(f"ready {part.address}", flush=True)
    await stop.wait()
    await part.close()


def main() -> None:
    config = PartConfig(**json.loads(sys.argv[1]))
    if config.die_with_parent:
        die_with_parent()
    set_up_logging(config)
    asyncio.run(serve(config))


if __name__ == "__main__":
    main()
