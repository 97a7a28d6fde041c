"""`sofs share`: names under which clients reach a volume."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from sofs.actors import admin
from sofs.cli.operator import add_common, ask, show_json, show_table
from sofs.core.messages import ChangeShare, ListShares, ShareInfo, ShareList
from sofs.core.share_table import check_share_name, share_key
from sofs.errors import BadNetworkName
from sofs.services.leader.desk import CHANGE, CREATE, REMOVE

EXAMPLES: Final = """\
examples:
  sofs share ls
  sofs share create logs                   another name for the volume `share`
  sofs share create builds --read-only     nothing can be changed through it
  sofs share change builds --read-write
  sofs share change scratch --not-available    handles end with their session
  sofs share rm logs                       files stay; clients of that share are sent away
  sofs share ls --json | jq '.shares[].name'

then: sofs.connect("sofs://HOST:PORT,.../logs")

A change is on the root when the command returns, and every node goes by it within 2 seconds.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "share",
        help="list, create, change and remove shares",
        description="Shares are names under which clients reach a volume.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="all shares")
    listing.set_defaults(run=run_ls)
    create = actions.add_parser("create", help="make a share")
    create.set_defaults(run=run_create)
    change = actions.add_parser("change", help="change a share; what is not named stays")
    change.set_defaults(run=run_change)
    remove = actions.add_parser("rm", help="remove a share; files stay")
    remove.set_defaults(run=run_rm)
    for action in (create, change, remove):
        action.add_argument("name", metavar="NAME")
    for action in (create, change):
        action.add_argument("--volume", metavar="VOLUME", help="default: share")
        write = action.add_mutually_exclusive_group()
        write.add_argument("--read-only", dest="read_only", action="store_true", default=None)
        write.add_argument("--read-write", dest="read_only", action="store_false")
        keep = action.add_mutually_exclusive_group()
        keep.add_argument(
            "--available",
            dest="available",
            action="store_true",
            default=None,
            help="open files outlive servers (default)",
        )
        keep.add_argument("--not-available", dest="available", action="store_false")
    for action in (listing, create, change, remove):
        add_common(action)


def run_ls(options: argparse.Namespace) -> int:
    reply = ask(options, ListShares(), ShareList)
    show(options, reply)
    return 0


def run_create(options: argparse.Namespace) -> int:
    share = ShareInfo(check_share_name(options.name), options.volume or "share", False, True)
    return _change(options, CREATE, _with_settings(share, options))


def run_change(options: argparse.Namespace) -> int:
    shares = ask(options, ListShares(), ShareList).shares
    found = [share for share in shares if share_key(share.name) == share_key(options.name)]
    if not found:
        raise BadNetworkName(f"there is no share {options.name!r}; `sofs share ls` lists them")
    return _change(options, CHANGE, _with_settings(found[0], options))


def run_rm(options: argparse.Namespace) -> int:
    return _change(options, REMOVE, ShareInfo(options.name))


def _with_settings(share: ShareInfo, options: argparse.Namespace) -> ShareInfo:
    return ShareInfo(
        share.name,
        options.volume or share.volume,
        share.read_only if options.read_only is None else options.read_only,
        share.available if options.available is None else options.available,
    )


def _change(options: argparse.Namespace, action: int, share: ShareInfo) -> int:
    reply = ask(options, ChangeShare(admin.token(), action, share), ShareList)
    show(options, reply)
    if reply.waiting:
        print(
            f"  {', '.join(reply.waiting)} did not answer; what runs goes by it within 2 s",
            file=sys.stderr,
        )
    return 0


def show(options: argparse.Namespace, reply: ShareList) -> None:
    if options.json:
        fields = {
            "version": f"{reply.epoch}.{reply.version}",
            "shares": [
                {
                    "name": share.name,
                    "volume": share.volume,
                    "read_only": share.read_only,
                    "available": share.available,
                }
                for share in reply.shares
            ],
            "reached": reply.reached,
            "waiting": reply.waiting,
        }
        show_json(fields)
        return
    show_table(
        ("SHARE", "VOLUME", "ACCESS", "AVAILABLE"),
        [
            (
                share.name,
                share.volume,
                "read-only" if share.read_only else "read-write",
                "yes" if share.available else "no",
            )
            for share in reply.shares
        ],
    )
