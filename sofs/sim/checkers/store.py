"""What is in the store and what refers to it: every reference exists, and every object is referred
to or has a reason to be there.

Reasons, in full. Claims are kept for ever. A hint names a role that has claims. Temporary names and
probes are left by processes that died, and removed at an attach. A claim whose owner died before it
served has a log that nobody stands on, and so has a node that died before it registered. A
checkpoint older than the named one goes with the next boundary, one that is newer was not named
before its follower died. A log below the lineage that was being deleted when its owner died stays.
Everything else that nobody refers to is waste, and a violation.

On slots a sealed log keeps two objects for ever: slot 0, and the fence, which is the highest; the
fence is there even if the log never served. A request may land long after its sender gave it up, so
where such are made (``strays``) a slot that was deleted may be there again.

References. Extents name segments of data logs and places in them; the lineage names the epochs it
stands on and a checkpoint; every owner's log starts in its segment 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from sofs.core.extents import unpack_extents
from sofs.sim.checkers.tables import PAGE, TablesOf
from sofs.sim.checkers.violation import Violation

CHECKER: Final = "store"
VOLUME: Final = "volume"
_SHOWN_MAX: Final = 20


@dataclass(frozen=True)
class Owner:
    """The owner of the volume when all is quiet. ``history``: the epochs that no checkpoint of its
    covers; ``checkpoint``: the key of the newest named one, "" for none; ``served``: all epochs
    that ever served."""

    epoch: int
    history: Sequence[int]
    checkpoint: str
    served: Sequence[int] = ()
    role: str = VOLUME


@dataclass(frozen=True)
class Slots:
    """What is known of a slot store beside its keys. ``fences``: the keys of those objects that
    hold a fence and nothing else; ``strays``: requests may have landed late."""

    fences: Sequence[str]
    strays: bool = False


def check_store(
    objects: Mapping[str, int], tables: TablesOf, owner: Owner, slots: Slots | None = None
) -> list[Violation]:
    """Judge a store: ``objects`` are its keys and sizes; ``slots``: it is a slot store."""
    claims = _numbers(objects, "claims")
    logs = _numbers(objects, "logs")
    if slots is not None and slots.strays:
        logs = {folder: _last_row(there) for folder, there in logs.items()}
    told = [
        *_claims(claims, owner),
        *(_fences(logs, claims, owner, slots) if slots is not None else ()),
        *_data_logs(objects, tables, claims, logs, slots),
        *_volume_logs(logs, claims, owner, slots),
        *_checkpoints(objects, owner),
        *_others(objects, claims, logs),
    ]
    return [Violation(CHECKER, text) for text in told[:_SHOWN_MAX]]


def _numbers(objects: Mapping[str, int], top: str) -> dict[str, list[int]]:
    """The numbers of the objects in each folder below ``top``, ascending."""
    found: dict[str, list[int]] = {}
    for key in objects:
        folder, _, name = key.rpartition("/")
        if folder.startswith(f"{top}/") and name.isdigit():
            found.setdefault(folder[len(top) + 1 :], []).append(int(name))
    return {folder: sorted(numbers) for folder, numbers in found.items()}


def _claims(claims: Mapping[str, Sequence[int]], owner: Owner) -> list[str]:
    told = [
        f"the claims of {role} are {list(numbers)[:9]}: one is missing"
        for role, numbers in claims.items()
        if list(numbers) != list(range(1, len(numbers) + 1))
    ]
    highest = max(claims.get(owner.role, [0]))
    if highest != owner.epoch:
        told.append(f"the owner is of epoch {owner.epoch}, the highest claim is {highest}")
    return told


def _last_row(there: Sequence[int]) -> list[int]:
    """The first slot, and the highest row without a hole."""
    at = len(there) - 1
    while at > 0 and there[at - 1] == there[at] - 1:
        at -= 1
    return [*there[: min(at, 1)], *there[at:]]


def _fences(
    logs: Mapping[str, Sequence[int]],
    claims: Mapping[str, Sequence[int]],
    owner: Owner,
    slots: Slots,
) -> list[str]:
    """Every log with a successor ends with a fence, and nobody loses his first slot."""
    sealed = [
        *(f"{owner.role}/{epoch:020d}" for epoch in claims.get(owner.role, ())[:-1]),
        *(
            f"{role}/{1:020d}"
            for role, numbers in claims.items()
            if role.startswith("node-") and len(numbers) > 1
        ),
    ]
    told: list[str] = []
    for folder in sealed:
        there = logs.get(folder, [])
        if not there or f"logs/{folder}/{there[-1]:020d}" not in slots.fences:
            told.append(f"the log {folder} has no fence: {list(there)}")
        elif there[0]:
            told.append(f"slot 0 of the log {folder} is gone: {list(there)}")
    return told


def _data_logs(
    objects: Mapping[str, int],
    tables: TablesOf,
    claims: Mapping[str, Sequence[int]],
    logs: Mapping[str, Sequence[int]],
    slots: Slots | None,
) -> list[str]:
    told: list[str] = []
    roles: dict[str, None] = {}
    lowest: dict[int, int] = {}
    for row in tables["segment"]:
        if row["live"]:
            lowest[row["log_id"]] = min(row["segment"], lowest.get(row["log_id"], row["segment"]))
    for row in tables["datalog"]:
        role = f"node-{row['incarnation'].hex()}"
        roles[role] = None
        folder = f"{role}/{1:020d}"
        there = logs.get(folder, [])
        seals = len(claims.get(role, []))
        if row["sealed"] is not None and seals != 2:
            told.append(f"log {row['log_id']} is sealed, with {seals} claims")
        row_there = [number for number in there if number]
        if row["sealed"] is not None and slots is not None:
            there = there[:-1]  # Its fence.
        first = lowest.get(row["log_id"])
        if row["sealed"] is None:
            if 0 not in there and (slots is None or there):  # Slot 0 comes with the first batch.
                told.append(f"the first segment of the live log {row['log_id']} is gone")
        elif first is None and there and not (slots is not None and there == [0]):
            told.append(f"nothing names the sealed log {row['log_id']}, and {folder} has {there}")
        kept = [number for number in there if number]  # The first goes with the whole log.
        if row["sealed"] is not None and first is not None and kept and kept[0] < first:
            told.append(f"log {row['log_id']} is needed from segment {first}, and has {there}")
        if any(two != one + 1 for one, two in pairwise(row_there)):
            told.append(f"log {row['log_id']} has the segments {there}: one is missing")
    told += _places(objects, tables, slots)
    return told + [
        f"{role} is sealed, and no row of datalog knows it"
        for role, numbers in claims.items()
        if role.startswith("node-") and role not in roles and len(numbers) > 1
    ]


def _places(objects: Mapping[str, int], tables: TablesOf, slots: Slots | None) -> list[str]:
    """Every run of pages lies inside a segment that is there."""
    told: list[str] = []
    incarnations = {row["log_id"]: row["incarnation"].hex() for row in tables["datalog"]}
    for row in tables["extent"]:
        name = incarnations.get(row["log_id"], "")
        digits = 8 if slots is None else 20
        key = f"logs/node-{name}/{1:020d}/{row['segment']:0{digits}d}"
        size = objects.get(key)
        run = next(iter(unpack_extents(row["packed"])))
        what = f"file {row['file']} page {row['page']} of log {row['log_id']}"
        if size is None:
            told.append(f"{what} lies in segment {row['segment']}, which is gone")
        elif run.offset + run.pages * PAGE > size:
            told.append(f"{what} lies behind the end of its segment, {size} bytes long")
    return told


def _volume_logs(
    logs: Mapping[str, Sequence[int]],
    claims: Mapping[str, Sequence[int]],
    owner: Owner,
    slots: Slots | None,
) -> list[str]:
    told: list[str] = []
    needed = [owner.epoch, *owner.history]
    epochs = {
        int(folder.rpartition("/")[2]): there
        for folder, there in logs.items()
        if folder.startswith(f"{owner.role}/")
    }
    if 0 not in epochs.get(owner.epoch, []):
        told.append(f"the log of the owner's epoch {owner.epoch} has no first segment")
    for epoch in owner.history:
        there = epochs.get(epoch, [])
        if not there:
            told.append(f"the lineage stands on epoch {epoch}, whose log is gone")
    for epoch, there in epochs.items():
        if any(two != one + 1 for one, two in pairwise(n for n in there if n)):
            told.append(f"the log of epoch {epoch} has the segments {there}: one is missing")
        if epoch not in claims.get(owner.role, []):
            told.append(f"the log of epoch {epoch} has no claim")
        if slots is not None:
            there = [number for number in there[:-1] if number]  # The rest stays for ever.
        if epoch in owner.served and epoch not in needed and there:
            told.append(f"the log of epoch {epoch} served, and nobody stands on it: {there}")
    return told


def _checkpoints(objects: Mapping[str, int], owner: Owner) -> list[str]:
    if owner.checkpoint and owner.checkpoint not in objects:
        return [f"the checkpoint {owner.checkpoint} is gone"]
    return []


def _others(
    objects: Mapping[str, int],
    claims: Mapping[str, Sequence[int]],
    logs: Mapping[str, Sequence[int]],
) -> list[str]:
    """What has a place in no other rule."""
    told: list[str] = []
    for key in objects:
        top, _, rest = key.partition("/")
        name = rest.rpartition("/")[2]
        role = rest.partition("/")[0]
        if name.startswith(".") and name.endswith(".tmp"):
            continue
        if top == "claims":
            known = name.isdigit() if "/" in rest else rest.removesuffix(".hint") in claims
        elif top == "logs":
            known = name.isdigit() and role in claims
        else:
            known = top in ("probes", "checkpoints")
        if not known:
            told.append(f"nobody knows what {key} is")
    return told
