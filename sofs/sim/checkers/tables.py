"""The authority's tables: what must hold in every committed state, and from each to the next.

``check_tables`` looks at one state, given as rows by table name (``sofs/services/authority/
schema.py`` says what they mean). It uses none of the product's rules and no SQL, so that a bug in a
rule is not repeated here. ``Steps`` compares each state with the one before of the same database:
numbers only rise, what was settled stays settled, a sealed log changes no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from struct import iter_unpack
from typing import Any, Final

from sofs.sim.checkers.violation import Violation

Row = Mapping[str, Any]
TablesOf = Mapping[str, Sequence[Row]]

CHECKER: Final = "tables"
STEP: Final = "change of tables"
ROOT: Final = 1
PAGE: Final = 4096
_FAILURES_MAX: Final = 20
_CUT: Final = "cut/"


def check_tables(tables: TablesOf, *, quiet: bool = False) -> list[Violation]:
    """Judge one committed state. ``quiet``: all clients have ended and what they left was cleaned
    up, so that nothing may be pending."""
    told = [
        *_tree(tables),
        *_pending(tables, quiet),
        *_extents(tables, quiet),
        *_handles(tables),
        *_locks(tables),
        *_tokens(tables),
        *_clients(tables),
        *_numbers(tables),
    ]
    return [Violation(CHECKER, text) for text in told[:_FAILURES_MAX]]


def _by(rows: Iterable[Row], *columns: str) -> dict[Any, Row]:
    if len(columns) == 1:
        return {row[columns[0]]: row for row in rows}
    return {tuple(row[c] for c in columns): row for row in rows}


# Names --------------------------------------------------------------------------------------------


def _tree(tables: TablesOf) -> list[str]:
    """One parent and one name each, no cycle, everything reachable from the root."""
    told: list[str] = []
    inodes = _by(tables["inode"], "ino")
    children: dict[int, list[int]] = {}
    names = Counter(entry["ino"] for entry in tables["dirent"])
    if ROOT not in inodes:
        told.append("the root directory is gone")
    for entry in tables["dirent"]:
        inode = inodes.get(entry["ino"])
        what = f"the name {entry['name']!r} in {entry['parent']}"
        if inode is None:
            told.append(f"{what} is of inode {entry['ino']}, which is gone")
            continue
        if (inode["parent"], inode["name"]) != (entry["parent"], entry["name"]):
            told.append(f"{what} is of inode {entry['ino']}, which has another name")
        above = inodes.get(entry["parent"])
        if above is None or not above["directory"]:
            told.append(f"{what} is in no directory")
        children.setdefault(entry["parent"], []).append(entry["ino"])
    for ino in inodes:
        wanted = 0 if ino == ROOT else 1
        if names[ino] != wanted:
            told.append(f"inode {ino} has {names[ino]} names, not {wanted}")
    seen = {ROOT: None}
    todo = [ROOT]
    while todo:
        for child in children.get(todo.pop(), []):
            if child in seen:
                told.append(f"inode {child} is reached twice")
            else:
                seen[child] = None
                todo.append(child)
    lost = [ino for ino in inodes if ino not in seen]
    if lost:
        told.append(f"inodes {lost[:5]} cannot be reached: a cycle, or a lost parent")
    return told


def _pending(tables: TablesOf, quiet: bool) -> list[str]:
    """What is to be deleted is kept only by a handle."""
    held = {row["ino"]: None for row in tables["handle"]}
    told = [
        f"inode {row['ino']} is to be deleted, and no handle keeps it"
        for row in tables["inode"]
        if row["pending"] and row["ino"] not in held
    ]
    if quiet:
        told += [
            f"{row['name']} is left to be done: pages of a file that were cut off"
            for row in tables["meta"]
            if row["name"].startswith(_CUT)
        ]
    return told


# Pages --------------------------------------------------------------------------------------------


def _extents(tables: TablesOf, quiet: bool) -> list[str]:
    """Runs lie inside their file, do not overlap, and are what segments' live counts say."""
    told: list[str] = []
    inodes = _by(tables["inode"], "ino")
    logs = _by(tables["datalog"], "log_id")
    cuts = {} if quiet else _cuts(tables)
    live: Counter[tuple[int, int]] = Counter()
    runs = sorted(tables["extent"], key=lambda row: (row["file"], row["page"]))
    for one, two in pairwise(runs):
        if one["file"] == two["file"] and one["page"] + one["pages"] > two["page"]:
            told.append(f"file {one['file']}: runs at {one['page']} and {two['page']} overlap")
    for run in runs:
        what = f"file {run['file']}: the run of {run['pages']} pages at {run['page']}"
        live[run["log_id"], run["segment"]] += run["pages"]
        inode = inodes.get(run["file"])
        cut = any(low <= run["page"] < high for low, high in cuts.get(run["file"], ()))
        if run["pages"] < 1:
            told.append(f"{what} is empty")
        if run["log_id"] not in logs:
            told.append(f"{what} lies in log {run['log_id']}, which is unknown")
        if cut:
            continue
        if inode is None or inode["directory"]:
            told.append(f"{what} is of no file")
        elif (run["page"] + run["pages"] - 1) * PAGE >= inode["size"]:
            told.append(f"{what} lies behind its end at {inode['size']}")
    counted = {(row["log_id"], row["segment"]): row["live"] for row in tables["segment"]}
    for key in dict.fromkeys([*live, *counted]):
        if live[key] != counted.get(key, 0):
            told.append(f"segment {key} has {live[key]} live pages, counted as {counted.get(key)}")
    return told


def _cuts(tables: TablesOf) -> dict[int, list[tuple[int, int]]]:
    return {
        int(row["name"][len(_CUT) :], 16): list(iter_unpack("<QQ", row["value"]))
        for row in tables["meta"]
        if row["name"].startswith(_CUT)
    }


# Handles, locks, tokens ---------------------------------------------------------------------------


def _handles(tables: TablesOf) -> list[str]:
    """A handle's log is nobody's or a live one; its file and its client exist; share modes hold."""
    told: list[str] = []
    inodes = _by(tables["inode"], "ino")
    logs = _by(tables["datalog"], "log_id")
    clients = _by(tables["client"], "client")
    by_ino: dict[int, list[Row]] = {}
    guids: Counter[tuple[bytes, bytes]] = Counter()
    for row in tables["handle"]:
        what = f"handle {row['handle']}"
        log = logs.get(row["log_id"])
        if row["log_id"] and (log is None or log["sealed"] is not None):
            told.append(f"{what} is connected through log {row['log_id']}, which is sealed or gone")
        if row["ino"] not in inodes:
            told.append(f"{what} is of inode {row['ino']}, which is gone")
        if row["client"] not in clients:
            told.append(f"{what} is of a client that is not known")
        if row["generation"] < 1:
            told.append(f"{what} has generation {row['generation']}")
        for other in by_ino.setdefault(row["ino"], []):
            if other["need"] & row["deny"] or row["need"] & other["deny"]:
                told.append(f"{what} and handle {other['handle']} exclude each other")
        by_ino[row["ino"]].append(row)
        if any(row["create_guid"]):
            guids[row["client"], row["create_guid"]] += 1
    twice = [guid.hex() for (_, guid), count in guids.items() if count > 1]
    return [*told, *([f"create GUIDs {twice[:3]} have two handles"] if twice else [])]


def _locks(tables: TablesOf) -> list[str]:
    told: list[str] = []
    handles = _by(tables["handle"], "handle")
    by_ino: dict[int, list[Row]] = {}
    for row in tables["lock"]:
        handle = handles.get(row["handle"])
        if handle is None or handle["ino"] != row["ino"]:
            told.append(f"a lock of file {row['ino']} is of handle {row['handle']}, not open there")
        for other in by_ino.setdefault(row["ino"], []):
            if row["handle"] != other["handle"] and (row["exclusive"] or other["exclusive"]):
                first, second = int(row["first"]), int(other["first"])
                if first < second + int(other["length"]) and second < first + int(row["length"]):
                    told.append(
                        f"handles {other['handle']} and {row['handle']} hold locks of file "
                        f"{row['ino']} that exclude each other"
                    )
        by_ino[row["ino"]].append(row)
    return told


def _tokens(tables: TablesOf) -> list[str]:
    told: list[str] = []
    inodes = _by(tables["inode"], "ino")
    logs = _by(tables["datalog"], "log_id")
    holders: dict[int, list[int]] = {}
    for row in tables["token"]:
        log = logs.get(row["log_id"])
        inode = inodes.get(row["ino"])
        if log is None or log["sealed"] is not None:
            told.append(f"log {row['log_id']} is sealed and holds a token of file {row['ino']}")
        if inode is None or inode["directory"]:
            told.append(f"a token is of {row['ino']}, which is no file")
        holders.setdefault(row["ino"], []).append(row["mode"])
    told += [
        f"file {ino} has {len(modes)} tokens, one of them to write"
        for ino, modes in holders.items()
        if len(modes) > 1 and max(modes) > 1
    ]
    return told


# Clients and numbers ------------------------------------------------------------------------------


def _clients(tables: TablesOf) -> list[str]:
    clients = _by(tables["client"], "client")
    counts = Counter(row["client"] for row in tables["handle"])
    told = [
        f"client {row['client'].hex()[:8]} has {counts[row['client']]} handles, counted as "
        f"{row['handles']}"
        for row in tables["client"]
        if counts[row["client"]] != row["handles"]
    ]
    for row in tables["result"]:
        client = clients.get(row["client"])
        if client is None:
            told.append("an answer is kept for a client that is not known")
        elif row["op_id"] < client["acked"]:
            told.append(f"the answer of operation {row['op_id']} is kept: its client has it")
    return told


def _numbers(tables: TablesOf) -> list[str]:
    """No number is in use that was not given out; nothing is applied beyond a seal."""
    told: list[str] = []
    given = tables["counter"][0]
    used = {
        "ino": max((row["ino"] for row in tables["inode"]), default=0),
        "handle": max((row["handle"] for row in tables["handle"]), default=0),
        "log": max((row["log_id"] for row in tables["datalog"]), default=0),
        "token": max((row["generation"] for row in tables["token"]), default=0),
    }
    told += [
        f"{kind} {number} is in use, and only {given[kind]} were given out"
        for kind, number in used.items()
        if number > given[kind]
    ]
    told += [
        f"log {row['log_id']} is applied to {row['applied']} and sealed at {row['sealed']}"
        for row in tables["datalog"]
        if row["sealed"] is not None and row["applied"] > row["sealed"]
    ]
    return told


# From one state to the next -----------------------------------------------------------------------

STEP_TABLES: Final = ("handle", "datalog", "client", "token", "counter")


class Steps:
    """The states of one database, one after the other; ``next`` says what the last change broke.
    Only STEP_TABLES are looked at."""

    def __init__(self) -> None:
        self._before: TablesOf | None = None
        self._floors: dict[int, int] = {}  # The highest token generation of each file.

    def restart(self) -> None:
        """The database was replaced, or changed by others: the next state is the first again."""
        self._before = None
        self._floors.clear()

    def next(self, after: TablesOf) -> list[Violation]:
        """Judge the change from the state before to ``after``."""
        before, self._before = self._before, after
        for row in after["token"]:
            self._floors.setdefault(row["ino"], row["generation"])
        if before is None:
            return []
        rules = {
            "handle": _handle_steps,
            "datalog": _log_steps,
            "client": _client_steps,
            "token": self._token_steps,
            "counter": _counter_steps,
        }
        told = [
            text
            for table, rule in rules.items()
            if before[table] is not after[table]
            for text in rule(before, after)
        ]
        return [Violation(STEP, text) for text in told]

    def _token_steps(self, before: TablesOf, after: TablesOf) -> list[str]:
        told: list[str] = []
        old = _by(before["token"], "ino", "log_id")
        for key, row in _by(after["token"], "ino", "log_id").items():
            was = old.get(key)
            same = was is not None and was["generation"] == row["generation"]
            floor = self._floors[row["ino"]]
            if same and was is not None and was["mode"] != row["mode"]:
                told.append(f"token {row['generation']} of file {row['ino']} changed its mode")
            elif not same and was is not None and row["generation"] <= floor:
                told.append(f"file {row['ino']} got token {row['generation']} after {floor}")
            self._floors[row["ino"]] = max(floor, row["generation"])
        return told


def _handle_steps(before: TablesOf, after: TablesOf) -> list[str]:
    told: list[str] = []
    old = _by(before["handle"], "handle")
    for number, row in _by(after["handle"], "handle").items():
        was = old.get(number)
        what = f"handle {number}"
        if was is None:
            if number <= before["counter"][0]["handle"]:
                told.append(f"{what} is back, or its number was given out twice")
            told += _fence_steps(row, after)
            continue
        if row["generation"] < was["generation"]:
            told.append(f"{what} fell from generation {was['generation']} to {row['generation']}")
        moved = row["log_id"] and row["log_id"] != was["log_id"]
        if moved and row["generation"] == was["generation"]:
            told.append(f"{what} was connected through log {row['log_id']} under its generation")
        fixed = ("client", "ino", "access", "share", "create_guid")
        if any(row[column] != was[column] for column in fixed):
            told.append(f"{what} became another one")
        told += _window_steps(what, was, row)
    return told


def _fence_steps(row: Row, after: TablesOf) -> list[str]:
    """The handle of an absent client keeps its file from everybody who wants its data."""
    return [
        f"handle {row['handle']} was opened, though the absent client of {other['handle']} keeps "
        f"file {row['ino']}"
        for other in after["handle"]
        if other["ino"] == row["ino"] and other["need"] and row["need"] and not other["log_id"]
    ]


def _window_steps(what: str, was: Row, row: Row) -> list[str]:
    """What a window says is settled stays settled, and an abandoned operation stays abandoned."""
    columns = ("watermark", "bitmap", "abandoned")
    if all(was[column] == row[column] for column in columns):
        return []
    if row["watermark"] < was["watermark"]:
        return [f"the window of {what} fell from {was['watermark']} to {row['watermark']}"]
    settled = _settled(row)
    open_again = [
        op for op in sorted(_settled(was)) if op >= row["watermark"] and op not in settled
    ]
    if open_again:
        return [f"operations {open_again[:5]} of {what} are settled no more"]
    gone = {op for (op,) in iter_unpack("<Q", row["abandoned"])}
    executed = [
        op for (op,) in iter_unpack("<Q", was["abandoned"])
        if op not in gone and op in settled
    ]  # fmt: skip
    if executed:
        return [f"operations {executed[:5]} of {what} were abandoned, and took effect"]
    return []


def _settled(row: Row) -> set[int]:
    """The operations at or above the watermark that are settled; for membership only."""
    found = set()
    for at, byte in enumerate(row["bitmap"]):
        for bit in range(8):
            if byte >> bit & 1:
                found.add(row["watermark"] + 8 * at + bit)
    return found


def _log_steps(before: TablesOf, after: TablesOf) -> list[str]:
    told: list[str] = []
    new = _by(after["datalog"], "log_id")
    for log_id, was in _by(before["datalog"], "log_id").items():
        row = new.get(log_id)
        if row is None:
            continue
        what = f"log {log_id}"
        if row["applied"] < was["applied"]:
            told.append(f"{what} is applied to {row['applied']} after {was['applied']}")
        if was["sealed"] is not None:
            if row["sealed"] != was["sealed"]:
                told.append(f"{what} was sealed at {was['sealed']}, now at {row['sealed']}")
            if row["applied"] != was["applied"]:
                told.append(f"{what} is sealed, and {row['applied']} of it was applied later")
        if (row["incarnation"], row["nonce"]) != (was["incarnation"], was["nonce"]):
            told.append(f"{what} became another one")
    return told


def _client_steps(before: TablesOf, after: TablesOf) -> list[str]:
    new = _by(after["client"], "client")
    return [
        f"client {client.hex()[:8]} acknowledged {was['acked']} and then {new[client]['acked']}"
        for client, was in _by(before["client"], "client").items()
        if client in new and new[client]["acked"] < was["acked"]
    ]


def _counter_steps(before: TablesOf, after: TablesOf) -> list[str]:
    was, row = before["counter"][0], after["counter"][0]
    return [
        f"the counter {kind} fell from {was[kind]} to {row[kind]}"
        for kind in ("ino", "handle", "log", "token")
        if row[kind] < was[kind]
    ]
