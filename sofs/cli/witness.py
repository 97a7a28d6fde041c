"""`sofs witness`: which client uses which node, who watches it for the client, and moving one."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from sofs.actors import witnesses
from sofs.cli.operator import add_common, show_json, show_table, where
from sofs.core.messages import WitnessedClient, WitnessedList
from sofs.services.witness.ask import Survey

EXAMPLES: Final = """\
examples:
  sofs witness ls                        clients, their nodes, and who watches these for them
  sofs witness ls --json | jq '.clients[] | select(.FileServerNode == "node-1")'
  sofs witness move 3f9a node-2          the client whose name begins so goes to node-2
  sofs witness move --share logs node-2  all clients of a share

A move is planned: applications see no error and a pause of a few dozen milliseconds. If the client
cannot go there it stays where it is, and the command exits with 3. docs/WITNESS.md tells the rest.
"""
NAME_CHARS: Final = 12  # Of a client's name, for people.


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "witness",
        help="list clients and move them between nodes",
        description="Clients as their witnesses know them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="all clients that are registered with a witness")
    listing.set_defaults(run=run_ls)
    move = actions.add_parser("move", help="have a client use another node, without an error")
    move.add_argument("--share", action="store_true", help="CLIENT is a share: all its clients")
    move.add_argument("client", metavar="CLIENT", help="its name or the beginning of it")
    move.add_argument("node", metavar="NODE", help="name or address, as `sofs status` shows")
    move.set_defaults(run=run_move)
    for action in (listing, move):
        add_common(action)


def run_ls(options: argparse.Namespace) -> int:
    found = witnesses.list_clients(*where(options))
    show(options, found)
    return 0


def run_move(options: argparse.Namespace) -> int:
    root, credential = where(options)
    if options.share:
        moved = witnesses.move_share(root, credential, options.client, options.node)
    else:
        moved = int(witnesses.move_one(root, credential, options.client, options.node))
    if options.json:
        show_json({"moved": moved, "node": options.node})
    elif moved and not options.share:
        print(f"{options.client} uses {options.node}")
    elif moved:
        clients = "1 client" if moved == 1 else f"{moved} clients"
        print(f"{clients} of {options.client} moved to {options.node}")
    else:
        print(f"nobody had to move: {options.client} uses {options.node} only")
    return 0


def show(options: argparse.Namespace, found: Survey) -> None:
    pairs = [(listed, client) for listed in found.lists for client in listed.clients]
    if options.json:
        clients = [_fields(listed, client) for listed, client in pairs]
        show_json({"clients": clients, "silent": found.silent})
        return
    show_table(
        ("CLIENT", "WITNESS", "NODE", "NETNAME", "SHARE", "ADDRESS", "STATE"),
        [
            (
                client.client_name[:NAME_CHARS],
                listed.witness,
                client.node,
                _short(listed.net_name, 16),
                _short(client.share_name or "*", 16),
                client.address,
                "listening" if client.state != "registered" else "registered",
            )
            for listed, client in pairs
        ],
    )
    for name, reason in found.silent.items():
        print(f"{name} does not answer: {reason}", file=sys.stderr)


def _short(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def _fields(listed: WitnessedList, client: WitnessedClient) -> dict[str, object]:
    """One registration by the names of the field (MSFT_SmbWitnessClient)."""
    words = {"registered": "Registered", "requested-notification": "RequestedNotification"}
    return {
        "ClientName": client.client_name,
        "WitnessNode": listed.witness,
        "FileServerNode": client.node,
        "NetworkName": listed.net_name,
        "ShareName": client.share_name,
        "IpAddress": client.address,
        "State": words[client.state],
        "Flags": ["ShareName"] if client.share_name else ["NetworkName"],
        "Version": f"{client.version:#010x}",
        "NotificationsSent": client.sent,
        "NotificationsQueued": client.queued,
    }
