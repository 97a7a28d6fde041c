"""`sofs cluster`: the clusters that this user knows on this machine."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from sofs.actors import rundir
from sofs.actors.known import KnownCluster, known_cluster, known_clusters
from sofs.cli.operator import show_json, show_table
from sofs.cli.up import add_run_dir
from sofs.errors import ObjectNameNotFound
from sofs.rpc.credential import CREDENTIAL_VARIABLE

EXAMPLES: Final = """\
examples:
  sofs cluster ls                    uuid, root, run, processes, and since when
  sofs cluster show                  the one cluster that is up: url, credential, every process
  sofs cluster show --root /srv/sofs
  sofs cluster show 8f3a             the one whose uuid begins so
  sofs cluster ls --json | jq '.clusters[] | select(.state == "up") | .url'

What the run directories say; no part is asked (`sofs status` asks). A cluster that was started with
--run-dir outside of the usual place is known by that option only.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "cluster",
        help="the clusters that this user knows here",
        description="Clusters that were started by this user on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, text, run in (
        ("ls", "all of them", run_ls),
        ("show", "one of them, with every process", run_show),
    ):
        action = actions.add_parser(
            name,
            help=text,
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == "show":
            action.add_argument(
                "cluster", metavar="UUID", nargs="?", default="", help="its first digits do"
            )
            action.add_argument("--root", metavar="PATH_OR_URL", help="the cluster's root")
        add_run_dir(action)
        action.add_argument("--json", action="store_true", help="for programs")
        action.set_defaults(run=run)


def run_ls(options: argparse.Namespace) -> int:
    if options.run_dir is not None:
        found = [known_cluster(Path(options.run_dir).absolute())]
    else:
        found = known_clusters(os.environ)
    if options.json:
        show_json({"clusters": [asdict(one) for one in found]})
        return 0
    show_table(
        ("CLUSTER", "STATE", "RUN", "PARTS", "SINCE", "ROOT"),
        [
            (
                one.cluster[:8] or "-",
                one.state,
                one.run_id[:8] or "-",
                f"{one.running}/{len(one.parts)}" if one.state == "up" else "-",
                when(one.since),
                one.root or one.run_dir,
            )
            for one in found
        ],
    )
    return 0


def run_show(options: argparse.Namespace) -> int:
    one = pick(options)
    if options.json:
        show_json(asdict(one))
        return 0
    facts = [
        ("cluster", one.cluster),
        ("root", one.root),
        ("state", one.state if not one.problem else f"{one.state}: {one.problem}"),
        ("run", one.run_id[:8]),
        ("run dir", one.run_dir),
        ("since", when(one.since)),
        ("url", one.url if one.state == "up" else ""),
        ("by name", one.dns_url if one.state == "up" else ""),
        ("credential", f"export {CREDENTIAL_VARIABLE}={one.credential}" if one.credential else ""),
    ]
    for title, value in facts:
        if value:
            print(f"{title:12}{value}")
    if one.parts:
        print(f"\n{one.running} of {len(one.parts)} processes run")
        show_table(
            ("PART", "STATE", "PID", "ADDRESS"),
            [
                (
                    part.name,
                    "running" if part.running else "not there",
                    str(part.pid or "-"),
                    part.address or "-",
                )
                for part in one.parts
            ],
        )
    return 0


def pick(options: argparse.Namespace) -> KnownCluster:
    """The cluster that is meant. Raises ObjectNameNotFound, InvalidParameter (several)."""
    if options.cluster and options.run_dir is None:
        found = [c for c in known_clusters(os.environ) if c.cluster.startswith(options.cluster)]
        return _only(found, f"uuid {options.cluster}")
    run_dir = rundir.find_run_dir(options.run_dir, options.root, os.environ)
    if run_dir is None:
        what = f" on {options.root}" if options.root else ""
        raise ObjectNameNotFound(f"no cluster{what} is known here; `sofs up` starts one")
    return known_cluster(run_dir)


def _only(found: Sequence[KnownCluster], what: str) -> KnownCluster:
    if len(found) != 1:
        count = "no cluster" if not found else f"{len(found)} clusters"
        raise ObjectNameNotFound(f"{count} with the {what}; `sofs cluster ls` lists what is known")
    return found[0]


def when(seconds: float) -> str:
    """A moment for people, in local time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else "-"
