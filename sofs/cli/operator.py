"""What commands that ask the leader have in common: whom they ask, and how they print."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from sofs.actors import admin, rundir
from sofs.cli.up import add_run_dir
from sofs.core.messages import Message
from sofs.errors import InvalidParameter
from sofs.rpc.credential import find_credential

R = TypeVar("R", bound=Message)

COLUMNS_MAX: Final = 100  # Of a table.
CELL_MIN: Final = 10  # A column is not cut below this.


def add_common(parser: argparse.ArgumentParser) -> None:
    """Arguments of every command that asks the leader."""
    parser.add_argument(
        "--root",
        metavar="PATH_OR_URL",
        help="the cluster's root; the credential is then found in SOFS_CREDENTIAL or the run dir",
    )
    add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def ask(options: argparse.Namespace, body: Message, kind: type[R]) -> R:
    """Ask the leader of the cluster that ``options`` name."""
    root, credential = where(options)
    return admin.ask(root, credential, body, kind)


def where(options: argparse.Namespace) -> tuple[str, str]:
    """The root and the credential of the cluster that ``options`` name."""
    run_dir = rundir.find_run_dir(options.run_dir, options.root, os.environ)
    record = rundir.read_run(run_dir) if run_dir is not None else None
    root = options.root or (record.root if record is not None else "")
    if not root:
        raise InvalidParameter("no cluster is known on this machine; name one with --root")
    credential = find_credential(None, os.environ, run_dir)
    return rundir.normal_root(root), credential


def show_json(fields: Any) -> None:
    print(json.dumps(fields, indent=1))


def show_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; see ``table_lines``."""
    print("\n".join(table_lines(titles, rows)))


def table_lines(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they must be, and the table no wider than COLUMNS_MAX: the longest cells
    are cut (`--json` has all of them)."""
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    while sum(widths) + 2 * (len(widths) - 1) > COLUMNS_MAX and max(widths) > CELL_MIN:
        widths[widths.index(max(widths))] -= 1
    lines = []
    for row in [titles, *rows]:
        cells = [_fit(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _fit(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 3]}..."


def printable(text: str) -> str:
    """A text with nothing in it that moves the cursor: paths are of users' choosing."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
