"""`sofs down`: end the processes of a cluster. Its files stay where they are."""

from __future__ import annotations

import argparse
import json
import os
from typing import Final

from sofs.actors import lifecycle, rundir
from sofs.cli.up import add_run_dir, say

EXAMPLES: Final = """\
examples:
  sofs down                     the one cluster that is up
  sofs down --root /srv/sofs    the one on this root
  sofs down --run-dir /run/sofs

Exactly the processes that the run recorded are ended, whether Ray answers or not. Every write that
was acknowledged is on the disk, so nothing is lost by it; clients wait for the next `sofs up`.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "down",
        help="end a cluster's processes; files stay",
        description="End the processes of a cluster on this machine, and wait until they are gone.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", metavar="PATH_OR_URL", help="the cluster's root")
    add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    run_dir = rundir.find_run_dir(options.run_dir, options.root, os.environ)
    ended = lifecycle.down(run_dir, say) if run_dir is not None else 0
    if options.json:
        print(json.dumps({"run_dir": str(run_dir or ""), "ended": ended}))
        return 0
    print(f"down: {ended} processes ended" if ended else "no cluster is up")
    return 0
