"""``sofs://host[:port][,host2[:port]...]/share``: where a share is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from sofs.errors import InvalidParameter

PORT_DEFAULT: Final = 7440
SCHEME: Final = "sofs://"
_FORM: Final = "write sofs://host[:port][,host2[:port]...]/share"


@dataclass(frozen=True, slots=True)
class ShareUrl:
    """``hosts``: (host, port) in the order given; IPv6 addresses without brackets."""

    hosts: tuple[tuple[str, int], ...]
    share: str

    @property
    def addresses(self) -> list[str]:
        return [join_host(host, port) for host, port in self.hosts]

    def __str__(self) -> str:
        return f"{SCHEME}{','.join(self.addresses)}/{self.share}"


def join_host(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_url(url: str) -> ShareUrl:
    """Take a URL apart. Raises InvalidParameter that says what is wrong with it."""
    if not url.startswith(SCHEME):
        raise InvalidParameter(f"{url!r} does not start with {SCHEME}; {_FORM}")
    hosts_text, slash, share = url[len(SCHEME) :].partition("/")
    share = unquote(share.rstrip("/"))
    if not slash or not share:
        raise InvalidParameter(f"{url!r} names no share; {_FORM}")
    if "/" in share or "\0" in share:
        raise InvalidParameter(f"the share name {share!r} is no single name; {_FORM}")
    if "@" in hosts_text:
        raise InvalidParameter(f"{url!r} holds an '@': give the credential as an argument")
    hosts = tuple(_parse_host(text, url) for text in hosts_text.split(","))
    return ShareUrl(hosts, share)


def _parse_host(text: str, url: str) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise InvalidParameter(f"the address {text!r} in {url!r} is not [IPv6]:port; {_FORM}")
        port = rest[1:]
    elif text.count(":") > 1:
        raise InvalidParameter(f"put the IPv6 address {text!r} in {url!r} into brackets")
    else:
        host, _, port = text.partition(":")
    if not host:
        raise InvalidParameter(f"{url!r} holds an empty host; {_FORM}")
    if not port and not text.endswith(":"):
        return host, PORT_DEFAULT
    if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise InvalidParameter(f"the port {port!r} in {url!r} is no number from 1 to 65535")
    return host, int(port)
