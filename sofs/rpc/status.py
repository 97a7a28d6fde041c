"""The one table between gRPC statuses and SOFS errors.

A gRPC status is about a stream, never about an operation: those have their outcome in their reply.
Whatever ends a stream leaves the operations on it unanswered, so every status maps to an error that
is not definite, except the three that a server sends before it has taken a single message.
"""

from __future__ import annotations

from typing import Final

import grpc

from sofs.errors import (
    CredentialRefused,
    NotSupported,
    ProtocolError,
    ProtocolVersion,
    SofsError,
    Unavailable,
)

ERROR_BY_STATUS: Final[dict[grpc.StatusCode, type[SofsError]]] = {
    grpc.StatusCode.OK: Unavailable,  # The peer ended the stream.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.UNKNOWN: Unavailable,
    grpc.StatusCode.INVALID_ARGUMENT: ProtocolError,  # The peer could not read what we sent.
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.NOT_FOUND: ProtocolError,
    grpc.StatusCode.ALREADY_EXISTS: ProtocolError,
    grpc.StatusCode.PERMISSION_DENIED: CredentialRefused,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Unavailable,  # The peer serves too many streams.
    grpc.StatusCode.FAILED_PRECONDITION: ProtocolVersion,
    grpc.StatusCode.ABORTED: Unavailable,
    grpc.StatusCode.OUT_OF_RANGE: ProtocolError,
    grpc.StatusCode.UNIMPLEMENTED: NotSupported,  # The peer has no such service.
    grpc.StatusCode.INTERNAL: Unavailable,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: ProtocolError,
    grpc.StatusCode.UNAUTHENTICATED: CredentialRefused,
}

STATUS_BY_ERROR: Final[dict[type[SofsError], grpc.StatusCode]] = {
    ProtocolError: grpc.StatusCode.INVALID_ARGUMENT,
    ProtocolVersion: grpc.StatusCode.FAILED_PRECONDITION,
    CredentialRefused: grpc.StatusCode.UNAUTHENTICATED,
}
"""What a server ends a stream with; any other error is UNAVAILABLE."""

_REFUSED = "Connection refused"  # As the C library words ECONNREFUSED of the peer's host.


def error_of_status(status: grpc.StatusCode, details: str, peer: str) -> SofsError:
    """Return the error of a stream to ``peer`` that ended with ``status``."""
    cls = ERROR_BY_STATUS[status]
    return cls(f"{peer} ended the stream with {status.name}: {details or 'no reason given'}")


def error_of_connect(status: grpc.StatusCode, details: str, peer: str) -> SofsError:
    """Return the error of a connect to ``peer`` that ended with ``status``. ``refused`` is set when
    the peer's host answered that nobody listens there."""
    cls = ERROR_BY_STATUS[status]
    if status is grpc.StatusCode.OK:
        return cls(f"{peer} accepted a stream and ended it at once: connect again")
    error = cls(f"{peer} cannot be reached ({status.name}): {details or 'no reason given'}")
    if isinstance(error, Unavailable) and status is grpc.StatusCode.UNAVAILABLE:
        error.refused = _REFUSED in details
    return error


def status_of_error(error: SofsError) -> grpc.StatusCode:
    """Return the status that a server ends a stream with because of ``error``."""
    return STATUS_BY_ERROR.get(type(error), grpc.StatusCode.UNAVAILABLE)
