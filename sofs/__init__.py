"""SOFS: a continuously available scale-out file server that lives in a Ray cluster.

``connect`` opens a share for blocking calls, ``sofs.client.aio.connect`` for asyncio. Both are
loaded when first used, so that ``import sofs`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sofs.client.facts import ClusterFacts, FailoverRecord
    from sofs.client.operation import Settled
    from sofs.client.sync import File, Share, connect
    from sofs.core.messages import Share as ShareMode
    from sofs.errors import (
        AccessDenied,
        CredentialRefused,
        DeadlineExceeded,
        DeletePending,
        DirectoryNotEmpty,
        DiskFull,
        Expired,
        FileClosed,
        FileForcedClosed,
        FileIsADirectory,
        FileLockConflict,
        HandleLost,
        InvalidName,
        InvalidParameter,
        LimitExceeded,
        LockNotGranted,
        NotADirectory,
        NotSupported,
        ObjectNameCollision,
        ObjectNameNotFound,
        OutcomeUnknown,
        RangeNotLocked,
        SharingViolation,
        SofsError,
        Unavailable,
    )

_HOMES = {
    "connect": "sofs.client.sync",
    "File": "sofs.client.sync",
    "Share": "sofs.client.sync",
    "ClusterFacts": "sofs.client.facts",
    "FailoverRecord": "sofs.client.facts",
    "Settled": "sofs.client.operation",
}

__all__ = [
    "AccessDenied",
    "ClusterFacts",
    "CredentialRefused",
    "DeadlineExceeded",
    "DeletePending",
    "DirectoryNotEmpty",
    "DiskFull",
    "Expired",
    "FailoverRecord",
    "File",
    "FileClosed",
    "FileForcedClosed",
    "FileIsADirectory",
    "FileLockConflict",
    "HandleLost",
    "InvalidName",
    "InvalidParameter",
    "LimitExceeded",
    "LockNotGranted",
    "NotADirectory",
    "NotSupported",
    "ObjectNameCollision",
    "ObjectNameNotFound",
    "OutcomeUnknown",
    "RangeNotLocked",
    "Settled",
    "Share",
    "ShareMode",
    "SharingViolation",
    "SofsError",
    "Unavailable",
    "__version__",
    "connect",
]


def __getattr__(name: str) -> Any:
    if name == "ShareMode":
        from sofs.core.messages import Share as ShareMode

        return ShareMode
    if name not in __all__:
        raise AttributeError(f"module 'sofs' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "sofs.errors")), name)


def __dir__() -> list[str]:
    return __all__
