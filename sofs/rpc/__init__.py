"""gRPC, and what it reads when it is imported: how it waits for its sockets.

gRPC's event engine brings what arrives through four threads to asyncio's, each woken by the one
before. Without it the thread that grpc.aio polls with reads the socket itself, and a round trip
takes half as long (docs/PERFORMANCE.md). The choice is a variable of the environment that gRPC
reads once; it stands there for the import only. Whoever imports gRPC first, or sets the variable,
chooses otherwise.
"""

from __future__ import annotations

import os
import sys
from typing import Final

EXPERIMENTS_VARIABLE: Final = "GRPC_EXPERIMENTS"
SHORT_WAY: Final = "-event_engine_listener,-event_engine_client"

if "grpc" not in sys.modules and EXPERIMENTS_VARIABLE not in os.environ:  # noqa: TID251
    os.environ[EXPERIMENTS_VARIABLE] = SHORT_WAY  # noqa: TID251
    try:
        import grpc  # noqa: F401
    finally:
        del os.environ[EXPERIMENTS_VARIABLE]  # noqa: TID251
