"""`sofs dns ls`: who is listed under the access point's name, and why not."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
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
  sofs dns ls --json | jq .members
  sofs dns ls --root /srv/sofs

A node is listed while the leader counts it in, whether it answers or not: clients try the next. One
that joined is listed once it has said where it listens. docs/DNS.md tells the rest.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "dns",
        help="who is listed under the cluster's name",
        description="What the DNS part of a cluster knows.",
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
    found = lifecycle.dns_members(run_dir, find_credential(None, os.environ, run_dir))
    print(json.dumps(asdict(found), indent=1) if options.json else table(found))
    return 0


def table(found: MemberList) -> str:
    """The list for people."""
    lines = [
        f"name     {found.access_point}",
        f"answers  {found.address}  (UDP and TCP)",
        f"serial   {found.serial}  TTL {found.ttl_s} s",
    ]
    if not found.learned:
        lines.append("the leader has not said yet who belongs: every answer is SERVFAIL")
    rows = [
        (
            member.node,
            "yes" if member.listed else "no",
            str(member.port),
            ", ".join(member.hosts),
            member.machine[:8] or "-",
        )
        for member in found.members
    ]
    if rows:
        lines += ["", *table_lines(("NODE", "LISTED", "PORT", "ADDRESSES", "MACHINE"), rows)]
    return "\n".join(lines)
