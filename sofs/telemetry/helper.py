"""Helper processes of a run directory: one of each kind, kept by whichever part has its lock.

Export and metrics run in processes of their own, so that they take nothing of a part's event loop.
Every part tries for a kind's lock; who gets it starts the helper, which inherits the lock and is
killed by the kernel when that part ends, however it ends. Then another part starts the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

log = logging.getLogger("sofs.trace")

LOCK_RETRY_S: Final = 2.0
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def keep(module: str, folder: Path, environment: Mapping[str, str]) -> None:
    """See to it that one process ``python -m <module> <folder> <pid>`` runs, as long as this one
    does."""
    # The kernel kills the helper when the thread that started it ends: this one never does.
    threading.Thread(
        target=_keep, args=(module, folder, dict(environment)), name=module, daemon=True
    ).start()


def _keep(module: str, folder: Path, environment: dict[str, str]) -> None:
    while True:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / f"{module.rpartition('.')[2]}.lock"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            log.warning("%s is not started: %s", module, error)
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            command = [sys.executable, "-m", module, str(folder), str(os.getpid())]
            process = subprocess.Popen(command, pass_fds=(descriptor,), env=environment)
        except OSError:  # Another part keeps it, or it cannot be started now.
            os.close(descriptor)
        else:
            os.close(descriptor)
            log.info("%s is process %d", module, process.pid)
            process.wait()
        time.sleep(LOCK_RETRY_S)


def begin(arguments: list[str]) -> Path:
    """The first call of a helper: returns its folder. SystemExit when its part is gone already."""
    folder, parent = Path(arguments[1]), int(arguments[2])
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(0)  # It ended before the line above.
    with contextlib.suppress(OSError):
        os.nice(5)
    return folder
