"""The table of events, their records, and their order."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from sofs.core import events as e
from sofs.core.events import (
    BODY_BYTES_MAX,
    EVENT_BYTES,
    Channel,
    Event,
    all_kinds,
    decode_event,
    encode_event,
    in_order,
)
from sofs.core.trace import RingOwner

OWNER = RingOwner("node-1", "node", 7, 8, "boot", 0, 0)

# Of the field, by channel; what the two channels without public numbers have is ours.
NUMBERS = {
    Channel.SMB_SERVER: {
        *(500, 501, 502, 550, 552, 601),
        *range(650, 659),
        *(700, 701, 702, 1002, 1010, 1011, 1013, 1014),
    },
    Channel.SMB_CLIENT: {30611, 30805, 30806, 30807, 30808, 30819, 30820, 30821, 30900},
    Channel.WITNESS_CLIENT: {2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 41},
    Channel.RESUME_KEY_FILTER: {1, 2, 3, 4, 5, 6},
    Channel.WITNESS_SERVICE: {1, 2, 4, 5, 6, 7},
}


def test_each_channel_has_exactly_the_numbers_that_it_is_known_by() -> None:
    found: dict[Channel, set[int]] = {channel: set() for channel in Channel}
    for kind in all_kinds():
        found[kind.channel].add(kind.id)
    assert found == NUMBERS


def test_the_channels_are_those_of_the_field() -> None:
    names = ["SMBClient", "SMBServer", "ResumeKeyFilter", "SMBWitnessClient", "SMBWitnessService"]
    assert [channel.value for channel in e.CHANNELS] == names


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: f"{kind.id}-{kind.name}")
def test_a_sentence_uses_fields_that_its_kind_has(kind: e.EventKind) -> None:
    used = {name for _, name, _, _ in string.Formatter().parse(kind.template) if name}
    assert used <= set(kind.fields)
    assert all(t in (int, str, bytes) for t in kind.fields.values())
    values = {
        name: {int: 3, str: "text", bytes: b"\xab" * 16}[t] for name, t in kind.fields.items()
    }
    event = decode_event(encode_event(0, kind, 1, 2, b"", values), OWNER)
    assert event is not None
    assert event.kind is kind
    assert "{" not in event.message


def test_the_document_lists_every_kind_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs" / "EVENTS.md").read_text()
    entry = re.compile(
        r"^- (\d+) \*\*(\w+)\*\*, (\w+)(, frequent)?: (.*?)\. \*Fields:\* ([\w, ]+)\.$",
        re.MULTILINE,
    )
    listed = entry.findall(re.sub(r"\n  +", " ", text))
    assert listed == [
        (
            str(kind.id),
            kind.name,
            kind.level.value,
            ", frequent" if kind.frequent else "",
            re.sub(r"\{(\w+)[^}]*\}", r"`\1`", kind.template),
            ", ".join(kind.fields),
        )
        for kind in all_kinds()
    ]


def test_an_event_comes_back_from_its_record_with_its_trace() -> None:
    fields = {"handle": 7, "client": b"\x01" * 16, "file": 2**40}
    raw = encode_event(5, e.OPEN_CLOSED, 11, 12, b"t" * 16 + b"s" * 8, fields)
    assert len(raw) == EVENT_BYTES
    event = decode_event(raw, OWNER)
    assert event is not None
    assert (event.number, event.wall_ns, event.monotonic_ns) == (5, 11, 12)
    assert (event.channel, event.id, event.name) == (Channel.SMB_SERVER, 654, "OpenClosed")
    assert event.fields == {"handle": 7, "client": "01" * 16, "file": 2**40}
    assert (event.trace, event.span) == (b"t" * 16, b"s" * 8)
    assert event.message == f"client 01010101 closed handle 7 (file {2**40})"


def test_a_torn_record_is_no_event() -> None:
    fields = {"handle": 7, "client": b"\x01" * 16, "file": 1}
    raw = encode_event(5, e.OPEN_CLOSED, 11, 12, b"", fields)
    other = encode_event(6, e.OPEN_CLOSED, 11, 12, b"", {**fields, "handle": 8})
    for at in (1, 3, 8, 40, 60):
        assert decode_event(raw[:at] + other[at:], OWNER) is None
    assert decode_event(bytes(EVENT_BYTES), OWNER) is None
    assert decode_event(b"", OWNER) is None


@pytest.mark.parametrize("letter", ["x", "\x00", "\U0001f600", "\ud800", '"'])
def test_long_texts_are_cut_at_their_front_and_the_record_stays_whole(letter: str) -> None:
    fields = {
        "handle": 1,
        "client": b"\xff" * 16,
        "path": letter * 4000 + "/last",
        "node": letter * 300,
        "timeout_ms": 60_000,
    }
    event = decode_event(encode_event(0, e.OPEN_ESTABLISHED, 0, 0, b"", fields), OWNER)
    assert event is not None
    assert str(event.fields["path"]).startswith("…")
    assert str(event.fields["path"]).endswith("/last")
    assert event.fields["handle"] == 1
    assert BODY_BYTES_MAX < 4000


def test_an_event_of_a_newer_version_is_shown_with_its_fields() -> None:
    event = Event(0, 0, 0, Channel.SMB_SERVER, 9999, {"what": "new"}, owner=OWNER)
    assert (event.kind, event.name, event.message) == (None, "?", "what=new")
    odd = Event(0, 0, 0, Channel.SMB_SERVER, 654, {"client": 5}, owner=OWNER)
    assert "654" not in odd.message
    assert "OpenClosed" in odd.message


def test_fields_that_do_not_fit_their_kind_are_told_apart() -> None:
    fits = {"handle": 7, "client": b"c", "file": 1}
    assert e.OPEN_CLOSED.problem(fits) == ""
    assert "handle" in e.OPEN_CLOSED.problem({**fits, "handle": "7"})
    assert "file" in e.OPEN_CLOSED.problem({"handle": 7, "client": b"c"})


def test_events_of_one_boot_are_ordered_by_the_clock_that_does_not_jump() -> None:
    def at(wall: int, monotonic: int, boot: str, pid: int = 1) -> Event:
        owner = RingOwner("n", "node", pid, 0, boot, 0, 0)
        return Event(0, wall, monotonic, Channel.SMB_SERVER, 654, {}, owner=owner)

    before = at(100, 9_000, "older boot")
    first, second, third = at(500, 1, "boot"), at(300, 2, "boot", 2), at(400, 3, "boot")
    assert in_order([third, second, first, before]) == [before, first, second, third]
