"""Which addresses are understood, and which may be used in the clear."""

from __future__ import annotations

import pytest

from sofs.errors import InvalidParameter
from sofs.rpc.address import join_address, require_loopback, split_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("127.0.0.12:0", "127.0.0.12", 0),
        ("[::1]:65535", "::1", 65535),
        ("localhost:1", "localhost", 1),
    ],
)
def test_a_loopback_address_is_split_and_joined(text: str, host: str, port: int) -> None:
    assert split_address(text) == (host, port)
    assert require_loopback(text) == (host, port)
    assert join_address(host, port) == text


@pytest.mark.parametrize(
    "text", ["", ":1", "host", "host:", "host:x", "host:-1", "host:65536", "::1:5", "[]:5", "a:²"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="host:port"):
        split_address(text)


@pytest.mark.parametrize(
    "text", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "unix:1", "[fe80::1]:1"]
)
def test_an_address_outside_the_loopback_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="TLS"):
        require_loopback(text)
