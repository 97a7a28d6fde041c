"""`sofs handles`: which files are open, by whom, and closing one for its client."""

from __future__ import annotations

import argparse
from typing import Final

from sofs.actors.handles import Found, close_handle, list_handles
from sofs.cli.operator import add_common, printable, show_json, where
from sofs.core.messages import Access, Share
from sofs.errors import InvalidParameter

EXAMPLES: Final = """\
examples:
  sofs handles ls                          every open handle
  sofs handles ls --path /logs             on /logs, or on what is below it
  sofs handles ls --client 3fa9            of the client whose id begins so
  sofs handles ls --share builds --json | jq '.handles[] | select(.node == "")'
  sofs handles close 1207                  end a handle; its client is told

A handle without a node waits for its client, until its timeout. OPEN FOR: r read, w write, a
append, d delete; LETS: what others may do meanwhile. A handle belongs to a volume: --share lists
those on the volume that the share names, whichever share they were opened through.

A close lets what was under way finish or be refused first: nothing of the client lands afterwards,
and its locks are free. The client gets FILE_CLOSED_BY_ADMIN. `sofs events --id 658` tells of it.
"""
PATH_CHARS: Final = 44  # So that a line has 100 columns at most.
_RIGHTS: Final = ((Access.READ, "r"), (Access.WRITE, "w"), (Access.APPEND, "a"),
                  (Access.DELETE, "d"))  # fmt: skip
_LETS: Final = ((Share.READ, "r"), (Share.WRITE, "w"), (Share.DELETE, "d"))
_ROW: Final = "{:>9}  {:8}  {:12}{:9}{:6}{:>6}  {}"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "handles",
        help="list open files, and close one for its client",
        description="Open handles of a cluster's volumes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="open handles, by volume and number")
    listing.add_argument("--client", metavar="ID", default="", help="the beginning of a client id")
    listing.add_argument("--path", default="", help="a file, or a directory with all below it")
    listing.set_defaults(run=run_ls)
    closing = actions.add_parser("close", help="close handles; their clients are told")
    closing.add_argument("handle", metavar="HANDLE", nargs="+")
    closing.set_defaults(run=run_close)
    for action in (listing, closing):
        action.add_argument("--share", metavar="S", default="", help="on the volume of this share")
        action.add_argument("--volume", metavar="V", default="", help="on this volume")
        add_common(action)


def number(text: str) -> int:
    """A handle by its number."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**63:
        raise InvalidParameter(f"{text!r} is no handle; `sofs handles ls` shows their numbers")
    return int(text)


def run_ls(options: argparse.Namespace) -> int:
    if set(options.client.lower()) - set("0123456789abcdef"):
        raise InvalidParameter("--client takes hexadecimal digits, as `sofs handles ls` shows")
    path = "/" + options.path.strip("/") if options.path else ""
    found: list[Found] = []
    shown = 0

    def show(one: Found) -> None:
        nonlocal shown
        if options.json:
            found.append(one)
            return
        if not shown:
            print(_ROW.format("HANDLE", "CLIENT", "NODE", "OPEN FOR", "LETS", "LOCKS", "PATH"))
        shown += 1
        print(row(one))

    list_handles(
        *where(options),
        share=options.share,
        volume=options.volume,
        client=options.client,
        path=path,
        each=show,
    )
    if options.json:
        show_json({"handles": [fields(one) for one in found]})
    elif not shown:
        print("no handle is open")
    return 0


def row(one: Found) -> str:
    """One handle as a line of at most 100 columns."""
    handle = one.handle
    path = printable(handle.path)
    path = path if len(path) <= PATH_CHARS else "…" + path[1 - PATH_CHARS :]
    node = handle.node or "(away)"
    return _ROW.format(
        handle.handle,
        handle.client.hex()[:8],
        node if len(node) <= 11 else node[:10] + "…",
        letters(handle.access, _RIGHTS),
        letters(handle.share, _LETS),
        handle.locks,
        path,
    ).rstrip()


def letters(bits: int, names: tuple[tuple[int, str], ...]) -> str:
    """Flags as letters, "-" for none of them."""
    return "".join(letter for flag, letter in names if bits & flag) or "-"


def fields(one: Found) -> dict[str, object]:
    """One handle for programs."""
    handle = one.handle
    return {
        "volume": one.volume,
        "handle": handle.handle,
        "client": handle.client.hex(),
        "principal": handle.principal,
        "path": handle.path,
        "file": handle.ino,
        "node": handle.node,
        "access": letters(handle.access, _RIGHTS),
        "share": letters(handle.share, _LETS),
        "generation": handle.generation,
        "timeout_ms": handle.timeout_ms,
        "locks": handle.locks,
        "delete_on_close": handle.delete_on_close,
    }


def run_close(options: argparse.Namespace) -> int:
    root, credential = where(options)
    closed = []
    for handle in [number(text) for text in options.handle]:
        volume = close_handle(root, credential, handle, share=options.share, volume=options.volume)
        closed.append({"volume": volume, "handle": handle})
        if not options.json:
            print(f"closed: handle {handle} of the volume {volume}")
    if options.json:
        show_json({"closed": closed})
    return 0
