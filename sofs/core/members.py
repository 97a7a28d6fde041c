"""Who belongs to the access point, as its DNS part knows it: what the leader says, and what nodes
say of themselves.

The *roster* is the leader's word: which nodes belong, each with the machine that it is on and the
addresses that it was given. It is ordered by (epoch of the leader's claim, version): an older one
never replaces a newer. A *registration* is a node's own word: where it listens. Rules:

- Nobody is listed whom the roster does not name, with that machine. So an evicted node can register
  as often as it likes, and is not listed.
- A member that registered is listed with what it registered, and stays listed when it dies: clients
  walk the list, and its address is right again when it comes back.
- A member that the first roster named is listed, before it registers, with what the leader said: it
  may have been serving for long, and this part be the one that has just started.
- A member that a later roster brings is new: it is listed when it registers, so that nobody is sent
  to a node that does not listen yet.
- Before the first roster nothing is known, which is not the same as nobody being there.

Pure; messages come in, ``listed`` goes out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sofs.errors import Fenced, InvalidParameter

MEMBERS_MAX: Final = 64  # Of an access point.
MEMBER_HOSTS_MAX: Final = 8  # Addresses of one node.
REGISTRATIONS_MAX: Final = 256  # Those of strangers included; then the oldest stranger goes.
MACHINE_CHARS_MAX: Final = 128
SERVER_LABELS: Final = ("ns1", "ns2")  # Below the access point, and not for nodes.
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

assert MEMBERS_MAX < REGISTRATIONS_MAX


@dataclass(frozen=True, slots=True)
class Member:
    """One node of the access point: ``hosts`` are addresses, IPv6 without brackets. ``machine``:
    whom the leader gave the node's place to; "" where there is no leader."""

    node: str
    machine: str
    hosts: tuple[str, ...]
    port: int

    @property
    def key(self) -> tuple[str, str]:
        return self.node, self.machine


def checked(member: Member) -> Member:
    """Return ``member`` with its addresses in their usual spelling. Raises InvalidParameter for
    what cannot stand in a zone."""
    node = member.node.lower()
    if not _LABEL.fullmatch(node) or node in SERVER_LABELS:
        raise InvalidParameter(
            f"the node name {member.node!r} is no label of DNS (letters, digits and '-', up to 63) "
            f"or is taken ({', '.join(SERVER_LABELS)})"
        )
    if len(member.machine) > MACHINE_CHARS_MAX:
        raise InvalidParameter(f"machine: {MACHINE_CHARS_MAX} characters at most")
    if not 0 < member.port < 65536:
        raise InvalidParameter(f"port {member.port} of {node}: a port is 1 to 65535")
    if not 0 < len(member.hosts) <= MEMBER_HOSTS_MAX:
        raise InvalidParameter(
            f"{node} has {len(member.hosts)} addresses; 1 to {MEMBER_HOSTS_MAX} can be listed"
        )
    hosts = tuple(dict.fromkeys(_host(host, node) for host in member.hosts))
    return replace(member, node=node, hosts=hosts)


def _host(text: str, node: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidParameter(f"{text!r} of {node} is no IP address") from None
    scoped = isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None
    if scoped or address.is_multicast or address.is_unspecified or address.is_link_local:
        raise InvalidParameter(f"nobody can connect to {text!r} of {node} by its address alone")
    return str(address)


class Membership:
    """See the module."""

    def __init__(self) -> None:
        self.epoch = 0
        self.version = 0
        self.learned = False
        self._members: dict[str, Member] = {}
        self._established: dict[tuple[str, str], None] = {}
        self._registered: dict[tuple[str, str], Member] = {}  # The oldest first.

    def set_members(self, epoch: int, version: int, members: Sequence[Member]) -> None:
        """Take the leader's roster. The same one again is fine. Raises Fenced for an older one,
        InvalidParameter for one that cannot stand in a zone; nothing is changed then."""
        if self.learned and (epoch, version) < (self.epoch, self.version):
            raise Fenced(
                f"members of epoch {epoch}, version {version}: "
                f"{self.epoch}, {self.version} are known"
            )
        if len(members) > MEMBERS_MAX:
            raise InvalidParameter(f"{len(members)} members; {MEMBERS_MAX} at most")
        named = {member.node: member for member in map(checked, members)}
        if len(named) != len(members):
            raise InvalidParameter("two members have one name")
        before = {member.key for member in self._members.values()}
        after = {member.key for member in named.values()}
        for key in [key for key in self._registered if key in before and key not in after]:
            del self._registered[key]  # Evicted: if it ever belongs again, it registers again.
        if not self.learned:
            self._established = dict.fromkeys(member.key for member in named.values())
        self._established = {key: None for key in self._established if key in after}
        self._members = named
        self.epoch, self.version, self.learned = epoch, version, True

    def register(self, member: Member) -> bool:
        """Take a node's word on where it listens; returns whether it is listed. Raises
        InvalidParameter."""
        member = checked(member)
        self._registered.pop(member.key, None)
        self._registered[member.key] = member
        if len(self._registered) > REGISTRATIONS_MAX:
            strangers = (key for key in self._registered if not self._belongs(key))
            del self._registered[next(strangers)]
        return self._belongs(member.key)

    def _belongs(self, key: tuple[str, str]) -> bool:
        member = self._members.get(key[0])
        return member is not None and member.key == key

    def listed(self) -> list[Member] | None:
        """Who is in the zone, in the leader's order; None while nothing is known."""
        if not self.learned:
            return None
        found = []
        for member in self._members.values():
            registered = self._registered.get(member.key)
            if registered is not None:
                found.append(registered)
            elif member.key in self._established:
                found.append(member)
        return found

    def members(self) -> list[tuple[Member, bool, bool]]:
        """For people: everybody of the roster as (member, has it registered, is it listed)."""
        listed = {member.key for member in self.listed() or []}
        return [
            (self._registered.get(m.key, m), m.key in self._registered, m.key in listed)
            for m in self._members.values()
        ]

    def strangers(self) -> list[Member]:
        """For people: registrations of nodes that the roster does not name."""
        return [m for key, m in self._registered.items() if not self._belongs(key)]
