"""The table between gRPC statuses and errors is complete and says no more than it knows."""

from __future__ import annotations

import grpc
import pytest

from sofs.errors import (
    CredentialRefused,
    NotSupported,
    ProtocolError,
    ProtocolVersion,
    Unavailable,
    all_errors,
)
from sofs.rpc.status import (
    ERROR_BY_STATUS,
    STATUS_BY_ERROR,
    error_of_connect,
    error_of_status,
    status_of_error,
)

DETAILS = "failed to connect to all addresses; Failed to connect to remote host: Connection refused"


def test_every_status_has_exactly_one_error() -> None:
    assert set(ERROR_BY_STATUS) == set(grpc.StatusCode)


def test_only_what_precedes_the_first_message_is_definite() -> None:
    definite = {cls for cls in ERROR_BY_STATUS.values() if cls.definite}
    assert definite == {CredentialRefused, NotSupported, ProtocolVersion}


def test_what_a_server_ends_a_stream_with_is_what_the_client_raises() -> None:
    for cls, status in STATUS_BY_ERROR.items():
        assert ERROR_BY_STATUS[status] is cls
    for code, cls in all_errors().items():
        error = cls("why")
        seen = error_of_status(status_of_error(error), error.message, "peer")
        assert type(seen) is (cls if cls in STATUS_BY_ERROR else Unavailable), code
        assert "why" in str(seen)


def test_a_refused_connection_is_told_from_every_other_failure() -> None:
    refused = error_of_connect(grpc.StatusCode.UNAVAILABLE, DETAILS, "peer")
    assert isinstance(refused, Unavailable)
    assert refused.refused
    for status, details in (
        (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
        (grpc.StatusCode.UNAVAILABLE, ""),
        (grpc.StatusCode.INTERNAL, DETAILS),
    ):
        other = error_of_connect(status, details, "peer")
        assert isinstance(other, Unavailable)
        assert not other.refused
    assert not Unavailable.refused


def test_a_peer_that_ended_a_stream_at_once_was_reached() -> None:
    error = error_of_connect(grpc.StatusCode.OK, "", "peer")
    assert isinstance(error, Unavailable)
    assert "ended it at once" in str(error)
    assert not error.refused


@pytest.mark.parametrize("status", list(grpc.StatusCode))
def test_the_end_of_a_stream_is_never_evidence_of_refusal(status: grpc.StatusCode) -> None:
    error = error_of_status(status, DETAILS, "peer")
    assert not getattr(error, "refused", False)
    if status is grpc.StatusCode.INVALID_ARGUMENT:
        assert isinstance(error, ProtocolError)
