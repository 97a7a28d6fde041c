"""The one error tree.

Every error has three machine-readable facts, fixed by its class; its text is for people and may
change:

``code``      the status on the wire (``Status`` of ``common.proto``); one class a code, one code a
class ``retry``     what the caller does next:
              ``"same-call"``    send the same call with the same op id again, after
              ``retry_after_ms`` ``"new-session"``  set up a session (reconnect, reclaim), then send
              the same call again ``"never"``        the call cannot succeed as it is: the
              application must act
``definite``  True: the operation did not and will never take effect. False: it may have.

::

    SofsError
     +-- names:      InvalidName, ObjectNameNotFound, ObjectNameCollision, NotADirectory,
     IsADirectory, ... +-- access:     AccessDenied, CredentialRefused, SharingViolation,
     FileLockConflict, LockNotGranted, ... +-- handles:    FileClosed, FileForcedClosed,
     ClosedByAdministrator, HandleLost, Expired, FileNotAvailable, ... +-- limits:     DiskFull,
     LimitExceeded, LimitReached, ... +--
     parts:      Unavailable, WrongIncarnation, Fenced, OutcomeUnknown, DeadlineExceeded +--
     storage:    StoreFailed, StoreUnknown, Corrupt, BackendRefused, FormatRefused +-- protocol:
     ProtocolError, ProtocolVersion

``InvariantViolation`` is not in the tree: it derives from ``BaseException``, nobody handles it, and
the process that raises it exits (a correctness bug becomes a restart).
"""

from __future__ import annotations

from typing import ClassVar, Literal

Retry = Literal["same-call", "new-session", "never"]

_BY_CODE: dict[str, type[SofsError]] = {}


class SofsError(Exception):
    """Base of every error that SOFS raises on purpose."""

    code: ClassVar[str] = ""
    retry: ClassVar[Retry] = "never"
    definite: ClassVar[bool] = True

    def __init_subclass__(
        cls, *, code: str, retry: Retry = "never", definite: bool = True, **rest: object
    ) -> None:
        super().__init_subclass__(**rest)
        if code in _BY_CODE:
            raise TypeError(f"error code {code} is taken by {_BY_CODE[code].__name__}")
        cls.code, cls.retry, cls.definite = code, retry, definite
        _BY_CODE[code] = cls

    def __init__(self, message: str = "", *, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


def error_from_code(code: str, message: str, retry_after_ms: int = 0) -> SofsError:
    """Build the error of a wire code; a code that this version does not know is a ProtocolError."""
    cls = _BY_CODE.get(code)
    if cls is None:
        return ProtocolError(f"the peer sent the unknown status {code!r}: {message}")
    return cls(message, retry_after_ms=retry_after_ms)


def all_errors() -> dict[str, type[SofsError]]:
    """Return every error class by its code, in definition order."""
    return dict(_BY_CODE)


# Names and kinds
# -----------------------------------------------------------------------------------


class InvalidName(SofsError, ValueError, code="OBJECT_NAME_INVALID"):
    """A name is empty, `.`/`..`, holds NUL or `/`, is not UTF-8, or is too long. Choose another
    name."""


class ObjectNameNotFound(SofsError, FileNotFoundError, code="OBJECT_NAME_NOT_FOUND"):
    """No such file or directory."""


class ObjectNameCollision(SofsError, FileExistsError, code="OBJECT_NAME_COLLISION"):
    """The name exists already. Open it instead, or choose another name."""


class NotADirectory(SofsError, NotADirectoryError, code="NOT_A_DIRECTORY"):
    """A component of the path is a file."""


class FileIsADirectory(SofsError, IsADirectoryError, code="FILE_IS_A_DIRECTORY"):
    """The operation needs a file and the path names a directory."""


class DirectoryNotEmpty(SofsError, OSError, code="DIRECTORY_NOT_EMPTY"):
    """Only an empty directory can be removed or replaced."""


class DeletePending(SofsError, PermissionError, code="DELETE_PENDING"):
    """The file is being deleted; the name is free after its last handle is closed."""


class CannotDelete(SofsError, PermissionError, code="CANNOT_DELETE"):
    """The file is read-only. Clear the attribute first."""


class BadNetworkName(SofsError, code="BAD_NETWORK_NAME"):
    """The cluster has no share of that name. `sofs share ls` lists them, `sofs share create` makes
    one."""


class ObjectInUse(SofsError, code="OBJECT_IN_USE"):
    """What is to be removed is in use; the message says by what. Give that back first, or say
    `--force`."""


class InvalidParameter(SofsError, ValueError, code="INVALID_PARAMETER"):
    """An argument is outside its range; the message names it and the range."""


class NotSupported(SofsError, code="NOT_SUPPORTED"):
    """This server does not know the operation: use one of the client's version or newer. Or this
    process cannot be a client, and the message says why."""


# Access and sharing
# --------------------------------------------------------------------------------


class AccessDenied(SofsError, PermissionError, code="ACCESS_DENIED"):
    """The handle lacks the access, or it belongs to another principal."""


class CredentialRefused(SofsError, PermissionError, code="CREDENTIAL_REFUSED"):
    """The cluster credential is missing or wrong. Set SOFS_CREDENTIAL to the file's path or
    contents."""


class SharingViolation(SofsError, PermissionError, code="SHARING_VIOLATION"):
    """Another handle's share mode excludes this access. Close that handle, or open with less
    access."""


class LockNotGranted(SofsError, BlockingIOError, code="LOCK_NOT_GRANTED"):
    """Another handle holds a conflicting byte-range lock. Try again after it unlocks."""


class FileLockConflict(SofsError, PermissionError, code="FILE_LOCK_CONFLICT"):
    """The range read or written is locked by another handle (or shared-locked, for a write)."""


class RangeNotLocked(SofsError, code="RANGE_NOT_LOCKED"):
    """Unlock must name exactly a range that this handle locked."""


# Handles and clients
# -------------------------------------------------------------------------------


class FileClosed(SofsError, ValueError, code="FILE_CLOSED"):
    """The handle is closed, or was never open here. Open the file again."""


class FileForcedClosed(SofsError, code="FILE_FORCED_CLOSED"):
    """An administrator or a newer application instance closed the handle. Open the file again."""


class ClosedByAdministrator(FileForcedClosed, code="FILE_CLOSED_BY_ADMIN"):
    """An administrator closed the handle (`sofs handles close`): what was not answered yet did not
    happen. Ask why before you open the file again."""


class HandleLost(SofsError, code="HANDLE_LOST"):
    """The handle's timeout passed while its client was away; its locks are gone. Open the file
    again and check what others did meanwhile."""


class DuplicateObjectId(SofsError, code="DUPLICATE_OBJECTID"):
    """The create GUID is in use by an open handle. Draw a fresh one, or reclaim."""


class Expired(SofsError, code="EXPIRED"):
    """The server no longer knows this client or operation id: its record was dropped after the
    stated time. It was never executed as new. Connect again as a new client."""


class FileNotAvailable(SofsError, code="FILE_NOT_AVAILABLE", retry="same-call"):
    """Fenced: a disconnected client's persistent handle (or the resume gate) keeps the file for
    now."""


class StaleGeneration(SofsError, code="STALE_GENERATION", retry="new-session"):
    """The handle was reclaimed through another node; this session is no longer its owner."""


# Limits
# --------------------------------------------------------------------------------------------


class DiskFull(SofsError, OSError, code="DISK_FULL"):
    """The backend has no room. Nothing was written. Free space, then repeat the call."""


class LimitExceeded(SofsError, code="LIMIT_EXCEEDED", retry="same-call"):
    """A queue or table is at its stated limit. The message names it. Try again with less in
    flight."""


class LimitReached(LimitExceeded, code="LIMIT_REACHED"):
    """The caller holds as much as it may: the message names what. Trying again does not help; give
    some back first."""


class MessageTooLarge(SofsError, ValueError, code="MESSAGE_TOO_LARGE"):
    """A message, name list or write is over its limit. Split the call."""


# Parts, failover and outcomes
# ----------------------------------------------------------------------


class Unavailable(SofsError, code="UNAVAILABLE", retry="new-session", definite=False):
    """The part is gone, starting or moving. Connect to another address and send the call again."""

    refused = False  # Set when the peer's host answered that nobody listens there (evidence, R14).


class WrongIncarnation(SofsError, code="WRONG_INCARNATION", retry="new-session"):
    """The message was meant for an earlier life of this process (R2). Look the part up again."""


class Fenced(SofsError, code="FENCED", retry="new-session", definite=False):
    """A successor has claimed the role: this incarnation may not answer any more (R3)."""


class OutcomeUnknown(SofsError, code="UNKNOWN_OUTCOME", retry="same-call", definite=False):
    """The operation may or may not have taken effect. Send it again with the same op id; an
    application that sees this settles it with ``share.settle(error.token)``."""

    def __init__(self, message: str = "", *, retry_after_ms: int = 0, token: object = None) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.token = token


class Abandoned(SofsError, code="ABANDONED"):
    """The operation was settled as never to be executed, before it could take effect."""


class DeadlineExceeded(SofsError, TimeoutError, code="DEADLINE_EXCEEDED"):
    """The caller's deadline passed and the operation surely had no effect."""


# Storage
# -------------------------------------------------------------------------------------------


class StoreFailed(SofsError, OSError, code="STORE_FAILED", retry="new-session", definite=False):
    """The backend refused or failed an operation; the message names the object."""


class StoreUnknown(SofsError, OSError, code="STORE_UNKNOWN", retry="new-session", definite=False):
    """The backend did not say whether it did it. Never guessed, and never served upon."""


class Corrupt(SofsError, OSError, code="DATA_CORRUPT"):
    """Stored bytes fail their checksum; the message names log, sequence and offset. Restore the
    range from a copy. `sofs status --facts` lists what was found damaged."""


class BackendRefused(SofsError, code="BACKEND_REFUSED"):
    """The backend cannot do what the protocols need (R11); the message names what it lacks."""


class FormatRefused(SofsError, code="FORMAT_REFUSED"):
    """A root, record or checkpoint has a format that this version does not know, or belongs to
    another cluster. Use the version or the cluster that wrote it."""


class OtherRun(SofsError, code="OTHER_RUN"):
    """Another run of the cluster serves this root. End it with `sofs down`, or take it over with
    `sofs up --take-over`."""


class ReadOnlyBackend(SofsError, OSError, code="READ_ONLY"):
    """The backend folder is read-only. Mount it writable or fix its permissions."""


# Witness
# -------------------------------------------------------------------------------------------


class RevisionMismatch(SofsError, code="REVISION_MISMATCH"):
    """The registration names a version of the witness protocol that this server does not speak.
    Register with the version that the message names."""


class InvalidState(SofsError, code="INVALID_STATE"):
    """This witness cannot watch that for you: it does not know the share or the address, is on the
    same host, or does not reach it. Choose another witness."""


class NotFound(SofsError, code="NOT_FOUND"):
    """The registration does not exist (any more). Register again."""


# Protocol
# ------------------------------------------------------------------------------------------


class ProtocolError(SofsError, code="PROTOCOL_ERROR", retry="new-session", definite=False):
    """The peer sent bytes that are no message of this protocol. The stream was ended."""


class ProtocolVersion(SofsError, code="PROTOCOL_VERSION"):
    """The peers share no protocol version. Upgrade the older one."""


class InvariantViolation(BaseException):
    """A rule of the program itself broke. Nobody catches it; the process exits and is restarted."""


def invariant(condition: bool, message: str) -> None:
    """Stop the process unless ``condition`` holds; stays on under ``python -O``."""
    if not condition:
        raise InvariantViolation(message)
