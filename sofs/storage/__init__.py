"""Storage: drivers, claims and fenced logs, the state database, recovery.

Start here: ``attach(url)`` gives a probed ``Store``, ``open_fenced`` the claims and logs on it,
``ApswState`` the tables of an authority, ``runtime`` the clocks, chance and threads of a real
process.
"""

from __future__ import annotations

from sofs.storage.ballast import Ballast
from sofs.storage.entries import ProtobufEntries
from sofs.storage.fenced import StoreFences, open_fenced
from sofs.storage.local import LocalAppendStore
from sofs.storage.logbase import LogOptions
from sofs.storage.probe import attach
from sofs.storage.recovery import StoreRecovery
from sofs.storage.runtime import SystemClock, SystemEntropy, ThreadBlocking
from sofs.storage.slots import MemorySlotStore
from sofs.storage.state import ApswState, without_locks

__all__ = [
    "ApswState",
    "Ballast",
    "LocalAppendStore",
    "LogOptions",
    "MemorySlotStore",
    "ProtobufEntries",
    "StoreFences",
    "StoreRecovery",
    "SystemClock",
    "SystemEntropy",
    "ThreadBlocking",
    "attach",
    "open_fenced",
    "without_locks",
]
