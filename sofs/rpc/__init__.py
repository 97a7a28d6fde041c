"""gRPC, and what it reads when it is imported: how it waits for its sockets; and its core, which
stays until the process ends.

gRPC's event engine brings what arrives through four threads to asyncio's, each woken by the one
before. Without it the thread that grpc.aio polls with reads the socket itself, and a round trip
takes half as long (docs/PERFORMANCE.md). The choice is a variable of the environment that gRPC
reads once; it stands there for the import only. Whoever imports gRPC first, or sets the variable,
chooses otherwise.

gRPC ends its core when the last of its objects is freed. A thread of it that was woken because a
socket took no more (the backup poller of iomgr/tcp_posix.cc, up to 10 s) is then still on its way,
and takes locks that are gone: an application that closed its share some seconds after a node froze
died of it (SIGSEGV, or SIGABRT with "Mutex corrupt"; tests/limits/test_grpc_core.py). So one object
is never freed. It has no thread and no socket of its own, and a child of a fork may still connect
after its parent has closed its shares.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

EXPERIMENTS_VARIABLE: Final = "GRPC_EXPERIMENTS"
SHORT_WAY: Final = "-event_engine_listener,-event_engine_client"

if "grpc" not in sys.modules and EXPERIMENTS_VARIABLE not in os.environ:  # noqa: TID251
    os.environ[EXPERIMENTS_VARIABLE] = SHORT_WAY  # noqa: TID251
    try:
        import grpc
    finally:
        del os.environ[EXPERIMENTS_VARIABLE]  # noqa: TID251

import grpc  # noqa: E402

_KEEPS_THE_CORE: Final = grpc.insecure_server_credentials()
# Nor is it freed when the interpreter ends and clears its modules.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_KEEPS_THE_CORE))
