"""gRPC, and what it reads from the environment when it begins: how it waits for its sockets, and
what it does when its process forks. And its core, which stays until the process ends.

gRPC's event engine brings what arrives through four threads to asyncio's, each woken by the one
before. Without it the thread that grpc.aio polls with reads the socket itself, and a round trip
takes half as long (docs/PERFORMANCE.md).

gRPC's handlers of a fork end the process that forks, every other time (SIGSEGV; its log says that
they were skipped because other threads are in gRPC). Without them that process goes on. Its child
has none of the threads, so there connects are refused; whoever starts processes by other means than
a bare fork (subprocess, multiprocessing's spawn and forkserver) need not know.

Both are variables that gRPC reads once; they stand in the environment for that moment only. Whoever
imports gRPC first, or sets a variable, chooses otherwise.

gRPC ends its core when the last of its objects is freed. A thread of it that was woken because a
socket took no more (the backup poller of iomgr/tcp_posix.cc, up to 10 s) is then still on its way,
and takes locks that are gone: an application that closed its share some seconds after a node froze
died of it (SIGSEGV, or SIGABRT with "Mutex corrupt"; tests/limits/test_grpc_core.py). So one object
is never freed. It has no socket of its own.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

EXPERIMENTS_VARIABLE: Final = "GRPC_EXPERIMENTS"
SHORT_WAY: Final = "-event_engine_listener,-event_engine_client"
FORK_VARIABLE: Final = "GRPC_ENABLE_FORK_SUPPORT"

_wanted = {EXPERIMENTS_VARIABLE: SHORT_WAY, FORK_VARIABLE: "false"}
_ours = {name: value for name, value in _wanted.items() if name not in os.environ}  # noqa: TID251
if "grpc" in sys.modules:
    _ours = {}
os.environ.update(_ours)  # noqa: TID251
try:
    import grpc

    _KEEPS_THE_CORE: Final = grpc.insecure_server_credentials()
finally:
    for _name in _ours:
        del os.environ[_name]  # noqa: TID251

# Nor is it freed when the interpreter ends and clears its modules.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_KEEPS_THE_CORE))
PID: Final = os.getpid()  # The process that gRPC works in, and not in its forks.
