"""Where a share is: ``sofs://host[:port][,host2[:port]...]/share``, or by the access point's name
``sofs://name[:port]/share?dns=host[:port][,host2[:port]...]``, to be asked from those DNS
servers.

``?start=host[:port]`` names the one of several addresses to begin at; else clients spread."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from sofs.errors import InvalidParameter

PORT_DEFAULT: Final = 7440
DNS_PORT_DEFAULT: Final = 53
DNS_SERVERS_MAX: Final = 8
SCHEME: Final = "sofs://"
_FORM: Final = "write sofs://host[:port][,host2[:port]...]/share[?dns=host:port|?start=host:port]"


@dataclass(frozen=True, slots=True)
class ShareUrl:
    """``hosts``: (host, port) in the order given; IPv6 addresses without brackets. ``dns``: servers
    to ask for the one host; its port is then 0 when none was given, and the servers tell it.
    ``start``: the one of the hosts to begin at, if that matters."""

    hosts: tuple[tuple[str, int], ...]
    share: str
    dns: tuple[tuple[str, int], ...] = ()
    start: tuple[str, int] | None = None

    @property
    def addresses(self) -> list[str]:
        return [join_host(host, port) for host, port in self.hosts]

    def __str__(self) -> str:
        if not self.dns:
            start = f"?start={join_host(*self.start)}" if self.start else ""
            return f"{SCHEME}{','.join(self.addresses)}/{self.share}{start}"
        [(name, port)] = self.hosts
        servers = ",".join(join_host(*server) for server in self.dns)
        return f"{SCHEME}{join_host(name, port) if port else name}/{self.share}?dns={servers}"


def join_host(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_url(url: str) -> ShareUrl:
    """Take a URL apart. Raises InvalidParameter that says what is wrong with it."""
    if not url.startswith(SCHEME):
        raise InvalidParameter(f"{url!r} does not start with {SCHEME}; {_FORM}")
    hosts_text, slash, share = url[len(SCHEME) :].partition("/")
    share, question, query = share.partition("?")
    share = unquote(share.rstrip("/"))
    if not slash or not share:
        raise InvalidParameter(f"{url!r} names no share; {_FORM}")
    if "/" in share or "\0" in share:
        raise InvalidParameter(f"the share name {share!r} is no single name; {_FORM}")
    if "@" in hosts_text:
        raise InvalidParameter(f"{url!r} holds an '@': give the credential as an argument")
    key, values = _parse_query(query, url) if question else ("", "")
    dns = _parse_servers(values, url) if key == "dns" else ()
    port_default = 0 if dns else PORT_DEFAULT
    hosts = tuple(_parse_host(text, url, port_default) for text in hosts_text.split(","))
    if dns and (len(hosts) > 1 or is_literal(hosts[0][0])):
        raise InvalidParameter(f"{url!r}: with ?dns= there is one name to ask for, and no address")
    start = _parse_host(values, url, PORT_DEFAULT) if key == "start" else None
    if start and (start not in hosts or not is_literal(start[0])):
        raise InvalidParameter(f"{url!r}: ?start= is one of the addresses before the share")
    return ShareUrl(hosts, share, dns, start)


def is_literal(host: str) -> bool:
    """Is it an address, which nobody needs to resolve?"""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def _parse_query(query: str, url: str) -> tuple[str, str]:
    key, _, value = query.partition("=")
    if key not in ("dns", "start") or "&" in value:
        raise InvalidParameter(
            f"{url!r} holds {query!r}; only dns= or start= may stand behind the '?'"
        )
    return key, unquote(value)


def _parse_servers(values: str, url: str) -> tuple[tuple[str, int], ...]:
    servers = values.split(",")
    if len(servers) > DNS_SERVERS_MAX:
        raise InvalidParameter(f"{url!r} names {len(servers)} DNS servers of {DNS_SERVERS_MAX}")
    return tuple(_parse_host(text, url, DNS_PORT_DEFAULT) for text in servers)


def _parse_host(text: str, url: str, port_default: int) -> tuple[str, int]:
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
        return host, port_default
    if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise InvalidParameter(f"the port {port!r} in {url!r} is no number from 1 to 65535")
    return host, int(port)
