"""The checkers of the authority's tables and of the store: a good state passes, each broken one is
told by what is wrong with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from sofs.core.extents import pack_extent
from sofs.sim.checkers.store import Owner, Slots, check_store
from sofs.sim.checkers.tables import Steps, check_tables

Tables = dict[str, list[dict[str, Any]]]
LIVE, SEALED = b"l" * 16, b"s" * 16
CLIENT = b"c" * 16
OWNER = Owner(3, [2], "", [1, 2, 3])


def inode(ino: int, parent: int, name: str, **more: Any) -> dict[str, Any]:
    row = {"ino": ino, "directory": 0, "size": 0, "attributes": 0, "created": 1, "modified": 1,
           "accessed": 1, "changed": 1, "pending": 0, "parent": parent, "name": name}  # fmt: skip
    return {**row, **more}


def handle(number: int, ino: int, **more: Any) -> dict[str, Any]:
    row = {"handle": number, "client": CLIENT, "create_guid": bytes([number]) * 16,
           "app_instance": b"", "ino": ino, "access": 3, "share": 7, "options": 0, "need": 3,
           "deny": 0, "delete_on_close": 0, "generation": 1, "log_id": 2, "timeout_ms": 1,
           "watermark": 1, "bitmap": b"", "results": b"", "abandoned": b""}  # fmt: skip
    return {**row, **more}


def extent(file: int, page: int, pages: int, log_id: int, segment: int) -> dict[str, Any]:
    packed = pack_extent(page, log_id, segment, 9, 4096, [7] * pages)
    return {"file": file, "page": page, "pages": pages, "log_id": log_id, "segment": segment,
            "packed": packed}  # fmt: skip


def good() -> Tables:
    """A directory, a file with pages in two logs, an open handle with a lock."""
    return {
        "meta": [{"name": "volume", "value": b"v"}],
        "counter": [{"id": 1, "ino": 9, "handle": 9, "log": 9, "token": 9}],
        "inode": [
            inode(1, 0, "", directory=1),
            inode(2, 1, "d", directory=1),
            inode(3, 2, "f", size=5 * 4096),
        ],
        "dirent": [
            {"parent": 1, "name": "d", "ino": 2},
            {"parent": 2, "name": "f", "ino": 3},
        ],
        "extent": [extent(3, 0, 2, 1, 4), extent(3, 2, 3, 2, 0)],
        "segment": [
            {"log_id": 1, "segment": 4, "live": 2},
            {"log_id": 1, "segment": 3, "live": 0},
            {"log_id": 2, "segment": 0, "live": 3},
        ],
        "datalog": [
            {"log_id": 1, "incarnation": SEALED, "nonce": b"n", "node": "a", "endpoint": "",
             "sealed": 20, "applied": 20},
            {"log_id": 2, "incarnation": LIVE, "nonce": b"m", "node": "b", "endpoint": "",
             "sealed": None, "applied": 9},
        ],
        "client": [{"client": CLIENT, "principal": "p", "acked": 4, "handles": 1}],
        "result": [{"client": CLIENT, "op_id": 4, "reply": b""}],
        "handle": [handle(5, 3)],
        "lock": [{"handle": 5, "n": 1, "ino": 3, "first": "0", "length": "9", "exclusive": 1}],
        "token": [{"ino": 3, "log_id": 2, "mode": 2, "generation": 6}],
        "corrupt": [],
    }  # fmt: skip


def told(tables: Tables, *, quiet: bool = False) -> str:
    return "; ".join(map(str, check_tables(tables, quiet=quiet)))


def test_a_good_state_passes() -> None:
    assert told(good(), quiet=True) == ""


Break = Callable[[Tables], None]
BROKEN: dict[str, Break] = {
    "which is gone": lambda t: t["inode"].pop(),
    "has 0 names": lambda t: t["dirent"].pop(),
    "has another name": lambda t: t["inode"][2].update(name="g"),
    "is in no directory": lambda t: t["inode"][1].update(directory=0),
    "cannot be reached": lambda t: (
        t["dirent"].__setitem__(0, {"parent": 2, "name": "d", "ino": 2}),
        t["inode"][1].update(parent=2),
    )[0],
    "no handle keeps it": lambda t: t["inode"][1].update(pending=2),
    "left to be done": lambda t: t["meta"].append({"name": "cut/03", "value": b""}),
    "overlap": lambda t: t["extent"][0].update(pages=3),
    "behind its end": lambda t: t["inode"][2].update(size=4 * 4096),
    "of no file": lambda t: t["extent"][0].update(file=2),
    "which is unknown": lambda t: t["extent"][0].update(log_id=7),
    "live pages, counted as": lambda t: t["segment"][0].update(live=1),
    "sealed or gone": lambda t: t["handle"][0].update(log_id=1),
    "not known": lambda t: t["handle"][0].update(client=b"x"),
    "generation 0": lambda t: t["handle"][0].update(generation=0),
    "exclude each other": lambda t: t["handle"].append(handle(6, 3, deny=3)),
    "have two handles": lambda t: t["handle"].append(handle(6, 3, create_guid=bytes([5]) * 16)),
    "not open there": lambda t: t["lock"][0].update(handle=6),
    "locks of file": lambda t: (
        t["handle"].append(handle(6, 3)),
        t["lock"].append({**t["lock"][0], "handle": 6, "first": "8"}),
    )[0],
    "holds a token": lambda t: t["token"][0].update(log_id=1),
    "which is no file": lambda t: t["token"][0].update(ino=2),
    "one of them to write": lambda t: t["token"].append({**t["token"][0], "log_id": 3}),
    "counted as 2": lambda t: t["client"][0].update(handles=2),
    "its client has it": lambda t: t["result"][0].update(op_id=3),
    "were given out": lambda t: t["counter"][0].update(ino=2),
    "sealed at 19": lambda t: t["datalog"][0].update(sealed=19),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_state_is_told(what: str) -> None:
    tables = good()
    BROKEN[what](tables)
    assert what in told(tables, quiet=True)


def test_runs_in_a_cut_range_are_no_pages_of_the_file_until_all_is_quiet() -> None:
    tables = good()
    tables["inode"][2]["size"] = 2 * 4096
    cut = (2).to_bytes(8, "little") + (1 << 52).to_bytes(8, "little")
    tables["meta"].append({"name": f"cut/{3:016x}", "value": cut})
    assert told(tables) == ""
    assert told(tables, quiet=True) != ""


# Changes ------------------------------------------------------------------------------------------


def step(change: Break) -> str:
    steps = Steps()
    before = good()
    assert steps.next(before) == []
    after = copy.deepcopy(before)
    change(after)
    return "; ".join(map(str, steps.next(after)))


CHANGES: dict[str, Break] = {
    "fell from generation": lambda t: t["handle"][0].update(generation=0),
    "under its generation": lambda t: t["handle"][0].update(log_id=3),
    "became another one": lambda t: t["handle"][0].update(ino=2),
    "given out twice": lambda t: t["handle"].append(handle(6, 2)),
    "window of handle 5 fell": lambda t: t["handle"][0].update(watermark=0),
    "changed its mode": lambda t: t["token"][0].update(mode=1),
    "after 6": lambda t: t["token"][0].update(generation=5),
    "was sealed at 20": lambda t: t["datalog"][0].update(sealed=21),
    "applied later": lambda t: t["datalog"][0].update(applied=21),
    "is applied to 8": lambda t: t["datalog"][1].update(applied=8),
    "acknowledged 4": lambda t: t["client"][0].update(acked=3),
    "counter token fell": lambda t: t["counter"][0].update(token=8),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_that_breaks_a_rule_is_told(what: str) -> None:
    assert what in step(CHANGES[what])


def test_changes_that_keep_the_rules_pass() -> None:
    def change(tables: Tables) -> None:
        tables["handle"][0].update(log_id=3, generation=2, watermark=3, bitmap=b"\x02")
        tables["token"][0].update(generation=7, mode=1)
        tables["datalog"][1].update(applied=12, sealed=12)
        tables["counter"][0].update(handle=10)
        tables["handle"].append(handle(10, 2))

    assert step(change) == ""


def test_a_settled_operation_stays_settled_and_an_abandoned_one_is_not_executed() -> None:
    steps = Steps()
    tables = good()
    gone = (4).to_bytes(8, "little")
    tables["handle"][0].update(watermark=2, bitmap=b"\x06", abandoned=gone)
    steps.next(copy.deepcopy(tables))
    tables["handle"][0].update(bitmap=b"\x02", abandoned=b"")
    assert "settled no more" in str(steps.next(copy.deepcopy(tables)))
    tables["handle"][0].update(bitmap=b"\x06", abandoned=gone)
    steps.next(copy.deepcopy(tables))
    tables["handle"][0].update(abandoned=b"")
    assert "were abandoned, and took effect" in str(steps.next(copy.deepcopy(tables)))
    tables["handle"][0].update(watermark=9, bitmap=b"")
    assert steps.next(tables) == []


def test_an_absent_clients_handle_keeps_its_file() -> None:
    steps = Steps()
    tables = good()
    tables["handle"][0].update(log_id=0)
    steps.next(copy.deepcopy(tables))
    tables["counter"][0].update(handle=10)
    tables["handle"].append(handle(10, 3))
    assert "keeps file 3" in str(steps.next(copy.deepcopy(tables)))


def test_a_database_that_was_replaced_starts_anew() -> None:
    steps = Steps()
    steps.next(good())
    steps.restart()
    tables = good()
    tables["counter"][0].update(token=6)
    assert steps.next(tables) == []


# The store ----------------------------------------------------------------------------------------


def stored() -> dict[str, int]:
    """What belongs to ``good`` and OWNER."""
    found = {
        f"claims/volume/{epoch:020d}": 100 for epoch in (1, 2, 3)
    }  # fmt: skip
    live, sealed = f"node-{LIVE.hex()}", f"node-{SEALED.hex()}"
    for role, epochs in ((live, (1,)), (sealed, (1, 2))):
        found |= {f"claims/{role}/{epoch:020d}": 100 for epoch in epochs}
    found |= {f"logs/{live}/{1:020d}/{number:08d}": 1 << 16 for number in (0, 3, 4)}
    found |= {f"logs/{sealed}/{1:020d}/{number:08d}": 1 << 16 for number in (0, 4, 5)}
    for epoch in (2, 3):
        found[f"logs/volume/{epoch:020d}/{0:08d}"] = 1 << 16
    return {
        **found,
        "claims/volume.hint": 2,
        "checkpoints/00000000000000000002-00000000000000000007-aabb": 4096,
        f"claims/volume/.{3:020d}.77.tmp": 100,
        "probes/abc": 16,
    }


def test_a_store_in_which_everything_has_a_reason_passes() -> None:
    assert check_store(stored(), good(), OWNER) == []


def without(key: str) -> Callable[[dict[str, int]], None]:
    return lambda objects: [objects.pop(k) for k in list(objects) if k.endswith(key)][:0] and None


NODE = f"node-{LIVE.hex()}"
DEAD = f"node-{SEALED.hex()}"
STORES: dict[str, Callable[[dict[str, int]], Any]] = {
    "claims of volume are": without(f"claims/volume/{1:020d}"),
    "highest claim is 4": lambda s: s.update({f"claims/volume/{4:020d}": 1}),
    "with 1 claims": without(f"claims/{DEAD}/{2:020d}"),
    "live log 2 is gone": without(f"logs/{NODE}/{1:020d}/{0:08d}"),
    "needed from segment 4": lambda s: s.update({f"logs/{DEAD}/{1:020d}/{3:08d}": 1}),
    "one is missing": lambda s: s.update({f"logs/{DEAD}/{1:020d}/{7:08d}": 1}),
    "segment 4, which is gone": without(f"logs/{DEAD}/{1:020d}/{4:08d}"),
    "behind the end of its segment": lambda s: s.update({f"logs/{DEAD}/{1:020d}/{4:08d}": 9000}),
    "no row of datalog knows it": lambda s: s.update(
        {f"claims/node-ff/{1:020d}": 1, f"claims/node-ff/{2:020d}": 1}
    ),
    "epoch 3 has no first segment": without(f"logs/volume/{3:020d}/{0:08d}"),
    "epoch 2, whose log is gone": without(f"logs/volume/{2:020d}/{0:08d}"),
    "nobody stands on it": lambda s: s.update({f"logs/volume/{1:020d}/{0:08d}": 1}),
    "has no claim": lambda s: s.update({f"logs/volume/{9:020d}/{0:08d}": 1}),
    "nobody knows what": lambda s: s.update({"elsewhere/x": 1}),
}


@pytest.mark.parametrize("what", STORES)
def test_a_store_with_waste_or_a_hole_is_told(what: str) -> None:
    objects = stored()
    STORES[what](objects)
    assert what in "; ".join(map(str, check_store(objects, good(), OWNER)))


def test_a_sealed_log_that_nothing_names_is_waste() -> None:
    tables = good()
    del tables["extent"][0], tables["segment"][0]
    assert "nothing names the sealed log 1" in str(check_store(stored(), tables, OWNER)[0])


def test_a_named_checkpoint_that_is_gone_is_told() -> None:
    [found] = check_store(stored(), good(), Owner(3, [2], "checkpoints/x", [1, 2, 3]))
    assert "is gone" in str(found)


# A store of slots ---------------------------------------------------------------------------------

FENCES = [
    f"logs/{DEAD}/{1:020d}/{6:020d}",
    f"logs/volume/{1:020d}/{9:020d}",
    f"logs/volume/{2:020d}/{5:020d}",
]


def slot_store() -> dict[str, int]:
    """The same as ``stored``: a fence is behind what a sealed log holds, and stays with slot 0."""
    found = {key: size for key, size in stored().items() if not key.startswith("logs/")}
    for folder, numbers in (
        (f"{NODE}/{1:020d}", (0, 3, 4)),
        (f"{DEAD}/{1:020d}", (0, 4, 5, 6)),
        (f"volume/{1:020d}", (0, 9)),
        (f"volume/{2:020d}", (0, 4, 5)),
        (f"volume/{3:020d}", (0, 1, 2)),
    ):
        found |= {f"logs/{folder}/{number:020d}": 1 << 16 for number in numbers}
    return found


def test_a_slot_store_in_which_everything_has_a_reason_passes() -> None:
    assert check_store(slot_store(), good(), OWNER, Slots(FENCES)) == []
    silent = slot_store()
    for number in (0, 3, 4):
        del silent[f"logs/{NODE}/{1:020d}/{number:020d}"]
    told = check_store(silent, good(), OWNER, Slots(FENCES))
    assert not [t for t in told if "is gone" in str(t) and "first segment" in str(t)]


SLOT_STORES: dict[str, Callable[[dict[str, int]], Any]] = {
    f"{DEAD}/{1:020d} has no fence": without(FENCES[0]),
    f"volume/{1:020d} has no fence": lambda s: [s.pop(k) for k in list(s) if FENCES[1][:-21] in k],
    f"volume/{2:020d} has no fence": lambda s: s.update({f"{FENCES[2][:-20]}{6:020d}": 1}),
    "slot 0 of the log volume": without(f"logs/volume/{2:020d}/{0:020d}"),
    "needed from segment 4": lambda s: s.update({f"logs/{DEAD}/{1:020d}/{3:020d}": 1}),
    "one is missing": without(f"logs/{DEAD}/{1:020d}/{5:020d}"),
    "nobody stands on it": lambda s: s.update({f"logs/volume/{1:020d}/{8:020d}": 1}),
    "segment 4, which is gone": without(f"logs/{DEAD}/{1:020d}/{4:020d}"),
}


@pytest.mark.parametrize("what", SLOT_STORES)
def test_a_slot_store_with_waste_or_a_hole_is_told(what: str) -> None:
    objects = slot_store()
    SLOT_STORES[what](objects)
    assert what in "; ".join(map(str, check_store(objects, good(), OWNER, Slots(FENCES))))


def test_a_slot_that_a_late_request_brought_back_is_no_waste_where_such_are_made() -> None:
    objects = slot_store() | {f"logs/{DEAD}/{1:020d}/{2:020d}": 1 << 16}
    assert check_store(objects, good(), OWNER, Slots(FENCES))
    assert check_store(objects, good(), OWNER, Slots(FENCES, strays=True)) == []
