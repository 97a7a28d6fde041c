"""`sofs dns ls`: who is listed under the access point's name, and why not."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from sofs.actors import lifecycle, rundir
from sofs.cli.operator import table_lines
from sofs.cli.up import add_run_dir
from sofs.core.messages import MemberList
from sofs.errors import Unavailable
from sofs.rpc.credential import find_credential

EXAMPLES: Final = """\
examples:
  sofs dns ls                         the access point of the one cluster that is up
  sofs dns ls --json | jq '.members[] | [.node, .listed_by]'
  sofs dns ls --root /srv/sofs

A node is listed while the leader counts it in, whether it answers or not: clients try the next. One
that joined is listed once it has said where it listens. Each DNS part is enough; "by dns-1" means
that the other has not heard it yet. docs/DNS.md tells the rest.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "dns",
        help="who is listed under the cluster's name",
        description="What the DNS parts of a cluster know.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    ls = verbs.add_parser(
        "ls",
        help="the nodes under the access point's name",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ls.add_argument("--root", metavar="PATH_OR_URL", help="the cluster's root")
    add_run_dir(ls)
    ls.add_argument("--json", action="store_true", help="for programs")
    ls.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    run_dir = rundir.find_run_dir(options.run_dir, options.root, os.environ)
    record = rundir.read_run(run_dir) if run_dir is not None else None
    if run_dir is None or record is None or not record.up:
        raise Unavailable("no cluster is up; `sofs up` starts one")
    told = lifecycle.dns_members(run_dir, find_credential(None, os.environ, run_dir))
    found = gather(told, record.dns_addresses)
    print(json.dumps(asdict(found), indent=1) if options.json else table(found))
    return 0


@dataclass(frozen=True, slots=True)
class Server:
    """A DNS part. ``address``: where it answers questions. ``problem``: why it tells nothing, ""
    if it does. ``epoch`` and ``version``: of the leader's last word that it has."""

    name: str
    address: str
    problem: str = ""
    learned: bool = False
    epoch: int = 0
    version: int = 0
    serial: int = 0


@dataclass(frozen=True, slots=True)
class Listed:
    """A node. ``listed_by``: the DNS parts that list it; ``registered_by``: those that it told
    where it listens."""

    node: str
    machine: str
    hosts: list[str]
    port: int
    listed_by: list[str] = field(default_factory=list)
    registered_by: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Access:
    """Everything about the access point."""

    access_point: str
    ttl_s: int
    servers: list[Server]
    members: list[Listed]


def gather(told: Mapping[str, MemberList | str], addresses: Sequence[str]) -> Access:
    """One picture of what the DNS parts told, or why they did not; a node is as who knows the
    leader's newest word has it. At least one of them told something."""
    answers = {name: found for name, found in told.items() if isinstance(found, MemberList)}
    newest_first = sorted(answers.values(), key=lambda one: (one.epoch, one.version), reverse=True)
    servers = []
    for (name, found), address in zip(told.items(), addresses, strict=True):
        if isinstance(found, str):
            servers.append(Server(name, address, found))
        else:
            known = found.learned, found.epoch, found.version, found.serial
            servers.append(Server(name, address, "", *known))
    members: dict[tuple[str, str], Listed] = {}
    for one in newest_first:
        for x in one.members:
            key = x.node, x.machine
            members.setdefault(key, Listed(x.node, x.machine, list(x.hosts), x.port))
    for name, found in answers.items():
        for x in found.members:
            member = members[x.node, x.machine]
            member.listed_by.extend([name] if x.listed else [])
            member.registered_by.extend([name] if x.registered else [])
    return Access(newest_first[0].access_point, newest_first[0].ttl_s, servers, [*members.values()])


def table(found: Access) -> str:
    """The list for people."""
    rows = []
    for server in found.servers:
        state = f"serial {server.serial}, epoch {server.epoch}, version {server.version}"
        if server.problem:
            state = f"away: {server.problem}"
        elif not server.learned:
            state = "SERVFAIL until the leader has said who belongs"
        rows.append((server.name, server.address, state))
    lines = [f"name  {found.access_point}, TTL {found.ttl_s} s", ""]
    lines += table_lines(("SERVER", "ANSWERS (UDP, TCP)", "STATE"), rows)
    asked = [server.name for server in found.servers if not server.problem]
    nodes = [
        (
            member.node,
            _by(member.listed_by, asked),
            str(member.port),
            ", ".join(member.hosts),
            member.machine[:8] or "-",
        )
        for member in found.members
    ]
    if nodes:
        lines += ["", *table_lines(("NODE", "LISTED", "PORT", "ADDRESSES", "MACHINE"), nodes)]
    return "\n".join(lines)


def _by(names: Sequence[str], asked: Sequence[str]) -> str:
    if len(names) == len(asked):
        return "yes"
    return f"by {', '.join(names)}" if names else "no"
