"""Addresses as ``host:port``, and which of them may be used without TLS."""

from __future__ import annotations

import ipaddress

from sofs.errors import InvalidParameter


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[v6]:port``; InvalidParameter for other text."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidParameter(f"address {address!r}; write host:port, or [address]:port for IPv6")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Return ``host:port`` as gRPC and people write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_loopback(address: str) -> tuple[str, int]:
    """Return host and port of ``address``; InvalidParameter unless it is one of this machine's
    loopback. The credential and all data travel in the clear, so they may not leave the machine."""
    host, port = split_address(address)
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise InvalidParameter(
            f"address {address!r} is not of the loopback, and this version has no TLS: "
            "use an address of 127.0.0.0/8 or [::1]"
        )
    return host, port
