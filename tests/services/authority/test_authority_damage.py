"""Damage that was found, in the tables: once for each place, as long as the place is damaged."""

from __future__ import annotations

from typing import Any

import pytest
from authority_harness import NOW, RW, RWD, Client, Node, Volume

from sofs.core import messages as m
from sofs.core.messages import CorruptKind, CorruptPlace, Disposition
from sofs.errors import Corrupt, ProtocolError
from sofs.services.authority import damage
from sofs.services.authority.damage import LISTED_MAX, Reported

PAGES = 8


@pytest.fixture
def volume() -> Any:
    made = Volume()
    yield made
    made.check()
    made.close()


class Case:
    """A client whose file of PAGES pages was written in one record and committed."""

    def __init__(self, volume: Volume, path: str = "/f") -> None:
        self.volume = volume
        self.node: Node = volume.node(f"node-of-{path[1:]}")
        self.client: Client = volume.client(f"client-{path[1:]}", self.node, "alice")
        self.path = path
        self.client.write_file(path, PAGES)
        self.sequence = self.node.sequence
        self.ino = self.client.stat(path).ino

    def place(self, page: int, sequence: int = 0) -> CorruptPlace:
        number = sequence or self.sequence
        return CorruptPlace(
            int(CorruptKind.PAGE), self.ino, page, 1, self.node.log_id, number // 8, number
        )

    def report(self, *places: CorruptPlace) -> Reported:
        found = self.volume.run(lambda s: s.report_corrupt(places, "node-1", NOW))
        assert isinstance(found, Reported)
        return found

    def pages(self) -> list[int]:
        listed = self.volume.state.list_corrupt()
        assert listed.total == len(listed.places)
        return [place.page for place in listed.places if place.ino == self.ino]

    def write(self, page: int, pages: int = 1) -> None:
        opened = self.client.open(self.path)
        grant = self.volume.clear(
            lambda: self.volume.run(lambda s: s.acquire_token(self.ino, 2, self.node.incarnation))
        )
        packed = self.node.extent(page, pages)
        size = max(4096 * (page + pages), self.client.stat(self.path).size)
        commit = self.node.commit(m.FileCommit(self.ino, grant.generation, size, NOW, packed))
        self.volume.run(lambda s: s.apply_commit(commit))
        self.client.close(opened, release_token=grant.generation)


def test_a_place_is_kept_once_however_often_it_is_reported(volume: Volume) -> None:
    case = Case(volume)
    assert case.report(case.place(1), case.place(2), case.place(1)) == (2, 0)
    assert case.report(case.place(1)) == (0, 0)
    [first, second] = volume.state.list_corrupt().places
    assert (first.page, first.path, first.found_by, first.found_ns) == (1, "/f", "node-1", NOW)
    assert (second.page, second.sequence) == (2, case.sequence)
    case.client.mkdir("/d")
    case.client.rename("/f", "/d/g")
    assert [place.path for place in volume.state.list_corrupt().places] == ["/d/g", "/d/g"]


def test_a_report_of_what_was_overwritten_meanwhile_changes_nothing(volume: Volume) -> None:
    case = Case(volume)
    case.write(3)
    assert case.report(case.place(3), case.place(PAGES), case.place(2, 99)) == (0, 0)
    assert case.report(case.place(2)) == (1, 0)
    assert case.pages() == [2]


def test_a_place_goes_with_the_transaction_that_writes_its_page_anew(volume: Volume) -> None:
    case = Case(volume)
    case.report(*map(case.place, range(PAGES)))
    case.write(2, 3)
    assert case.pages() == [0, 1, 5, 6, 7]
    case.report(case.place(3))
    assert case.pages() == [0, 1, 5, 6, 7], "that record is not the file's any more"


def test_a_place_goes_when_its_page_is_cut_off(volume: Volume) -> None:
    case = Case(volume)
    case.report(*map(case.place, range(PAGES)))
    opened = case.client.open("/f")
    case.client.send(m.Truncate(case.client.caller(), opened.handle, opened.generation, 4096 * 5))
    assert case.pages() == [0, 1, 2, 3, 4]
    case.client.write_file("/f", 2, Disposition.OVERWRITE)
    assert case.pages() == []


@pytest.mark.parametrize("how", ["unlink", "replace", "delete on close"])
def test_a_place_goes_with_its_file(volume: Volume, how: str) -> None:
    case, other = Case(volume), Case(volume, "/other")
    case.report(case.place(1))
    other.report(other.place(2))
    if how == "unlink":
        case.client.unlink("/f")
    elif how == "replace":
        case.client.write_file("/new")
        case.client.rename("/new", "/f", replace=True)
    else:
        opened = case.client.open("/f", RWD, options=m.OpenOptions.DELETE_ON_CLOSE)
        assert case.pages() == [1]
        case.client.close(opened)
    assert case.pages() == []
    assert other.pages() == [2]


def test_beyond_the_limit_places_are_counted_and_not_kept(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "CORRUPT_PLACES_MAX", 3)
    case = Case(volume)
    assert case.report(*map(case.place, range(5))) == (3, 2)
    assert case.report(*map(case.place, range(5))) == (0, 2)
    case.write(0)
    assert case.report(*map(case.place, range(1, 5))) == (1, 1)
    assert case.pages() == [1, 2, 3]
    case.client.open("/f")
    lose(case)
    assert len(volume.state.list_corrupt().places) == 4, "a fence is never left out"


def test_the_list_is_bounded_and_says_how_many_there_are(volume: Volume) -> None:
    case = Case(volume)
    for _ in range(2):
        case.write(PAGES, 400)
    case.sequence = case.node.sequence
    case.report(*map(case.place, range(PAGES, PAGES + 400)))
    case.write(PAGES + 400, 400)
    case.sequence = case.node.sequence
    case.report(*map(case.place, range(PAGES + 400, PAGES + 800)))
    listed = volume.state.list_corrupt()
    assert (len(listed.places), listed.total) == (LISTED_MAX, 800)


def test_reports_that_no_correct_part_makes_are_refused(volume: Volume) -> None:
    case = Case(volume)
    lost, store = int(CorruptKind.LOST), int(CorruptKind.STORE)
    for place in (
        CorruptPlace(lost, case.ino),
        CorruptPlace(store),
        CorruptPlace(store, case.ino, object="x"),
        CorruptPlace(store, object="x" * 513),
        CorruptPlace(1, 2**63, sequence=1),
        CorruptPlace(1, case.ino, object="x"),
    ):
        with pytest.raises(ProtocolError):
            case.report(place)


# Lost writes


def lose(case: Case) -> list[int]:
    """The node's log turns out to lack acknowledged records when it is sealed."""

    def rules(state: Any) -> list[int]:
        lost = state.lose_records(case.node.log_id, case.node.sequence + 1, "coordinator", NOW)
        state.seal_node(case.node.incarnation, case.node.sequence + 2)
        assert isinstance(lost, list)
        return lost

    found = case.volume.run(rules)
    case.client.node = case.node = case.volume.node("another")
    assert isinstance(found, list)
    return found


def test_a_file_with_lost_writes_is_refused_and_others_are_served(volume: Volume) -> None:
    case, other = Case(volume), Case(volume, "/other")
    mine = case.client.open("/f")
    reader = case.client.open("/other", m.Access.READ)
    assert lose(case) == [case.ino], "only what the node could write"
    assert case.client.reclaim(mine, guid_of(volume, mine)).code == ""
    assert case.client.reclaim(reader, guid_of(volume, reader)).code == ""
    with pytest.raises(Corrupt, match="write the file anew"):
        volume.run(lambda s: s.acquire_token(case.ino, 1, case.node.incarnation))
    with pytest.raises(Corrupt):
        volume.run(
            lambda s: s.read_file(
                m.ReadFile("/f", 0, 10, case.client.caller()), case.node.incarnation
            )
        )
    assert case.client.stat("/f").size == 4096 * PAGES
    other.client.open("/other", RW)
    grant = volume.clear(
        lambda: volume.run(lambda s: s.acquire_token(other.ino, 2, other.node.incarnation))
    )
    assert grant.generation


def guid_of(volume: Volume, handle: m.OpenReply) -> bytes:
    row = volume.database.one("SELECT create_guid FROM handle WHERE handle=?", (handle.handle,))
    assert row is not None
    return bytes(row[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["overwrite", "open and overwrite", "truncate", "unlink"])
def test_a_file_with_lost_writes_is_served_again_once_it_is_emptied(
    volume: Volume, how: str
) -> None:
    case = Case(volume)
    opened = case.client.open("/f")
    guid = guid_of(volume, opened)
    assert lose(case) == [case.ino]
    assert case.client.reclaim(opened, guid).code == ""
    assert case.pages() == [0]
    if how == "overwrite":
        case.client.write_file("/f", 2, Disposition.OVERWRITE)
    elif how == "open and overwrite":
        case.client.open("/f", disposition=Disposition.OVERWRITE)
    elif how == "truncate":
        for size in (4096, 0):
            case.client.send(
                m.Truncate(case.client.caller(), opened.handle, opened.generation, size)
            )
            assert case.pages() == ([0] if size else [])
    else:
        case.client.unlink("/f")
        assert case.pages() == [0], "its handle may not read either"
        case.client.close(opened)
    assert case.pages() == []
    if how != "unlink":
        grant = volume.run(lambda s: s.acquire_token(case.ino, 2, case.node.incarnation))
        assert grant.generation


def test_an_empty_file_with_lost_writes_can_be_emptied(volume: Volume) -> None:
    """All that was ever written to it may be what is lost."""
    case = Case(volume)
    opened = case.client.open("/empty")
    case.ino = opened.info.ino
    guid = guid_of(volume, opened)
    assert case.ino in lose(case)
    assert case.client.reclaim(opened, guid).code == ""
    case.client.send(m.Truncate(case.client.caller(), opened.handle, opened.generation, 0))
    assert case.pages() == []


# The authority's own objects


def test_a_damaged_object_of_the_store_goes_when_a_checkpoint_covers_it(volume: Volume) -> None:
    case = Case(volume)
    place = CorruptPlace(int(CorruptKind.STORE), log_id=3, sequence=40, object="the checkpoint x")
    assert case.report(place, place) == (1, 0)
    assert volume.state.has_damaged_store()
    assert volume.run(lambda s: s.heal_store(39)) == 0
    assert volume.run(lambda s: s.heal_store(40)) == 1
    assert not volume.state.has_damaged_store()
