"""The extent map against a dictionary."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sofs.core.extent_map import CHUNK_PAGES, ExtentMap
from sofs.core.extents import pack_extent
from sofs.errors import ProtocolError

Model = dict[int, tuple[int, int, int, int, int]]

pages = st.one_of(
    st.integers(0, 40),
    st.integers(CHUNK_PAGES - 20, CHUNK_PAGES + 20),
    st.integers(2 * CHUNK_PAGES - 20, 2 * CHUNK_PAGES + 20),
)
writes = st.tuples(
    st.just("write"), pages, st.integers(1, 300), st.integers(1, 3), st.integers(0, 2)
)
cuts = st.tuples(st.just("cut"), pages)


def write(
    model: Model, page: int, count: int, log_id: int, segment: int, sequence: int
) -> list[int]:
    sums = [hash((page, i, sequence)) & (2**64 - 1) for i in range(count)]
    for i in range(count):
        model[page + i] = (log_id, segment, sequence, 64 + 4096 * i, sums[i])
    return sums


def flatten(runs: list) -> Model:  # type: ignore[type-arg]
    found: Model = {}
    for run in runs:
        if run.log_id:
            assert len(run.sums) == run.pages
            for i in range(run.pages):
                found[run.page + i] = (
                    run.log_id, run.segment, run.sequence, run.offset + 4096 * i, run.sums[i],
                )  # fmt: skip
    return found


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(writes, cuts), max_size=12), pages, st.integers(1, 2200))
def test_runs_and_pages_agree_with_a_dictionary(steps: list, first: int, count: int) -> None:  # type: ignore[type-arg]
    table = ExtentMap()
    table.reset(0, 0)
    model: Model = {}
    for sequence, step in enumerate(steps, 1):
        if step[0] == "write":
            _, page, n, log_id, segment = step
            sums = write(model, page, n, log_id, segment, sequence)
            table.insert(page, log_id, segment, sequence, 64, sums)
        else:
            model = {page: place for page, place in model.items() if page < step[1]}
            table.truncate(step[1])
    end = first + count
    runs = table.runs(first, end)
    assert [run.page for run in runs] == [first] * bool(runs) + [
        run.page + run.pages for run in runs[:-1]
    ]
    assert runs[-1].page + runs[-1].pages == end
    expected = {page: place for page, place in model.items() if first <= page < end}
    assert flatten(runs) == expected
    for run, following in pairwise(runs):
        assert run.log_id or following.log_id, "neighbouring holes are one run"
    for page in (first, end - 1):
        place = table.page(page)
        assert (tuple(place) if place else None) == model.get(page)
    assert table.missing(first, end) is None


def test_a_large_extent_is_one_run_even_over_a_chunk_border() -> None:
    table = ExtentMap()
    table.reset(0, 0)
    table.insert(CHUNK_PAGES - 100, 1, 2, 3, 128, list(range(256)))
    [run] = table.runs(CHUNK_PAGES - 100, CHUNK_PAGES + 156)
    assert (run.pages, run.offset, list(run.sums)) == (256, 128, list(range(256)))


def test_chunks_beyond_the_granted_pages_are_missing_until_they_are_filled() -> None:
    table = ExtentMap()
    table.reset(CHUNK_PAGES, 3 * CHUNK_PAGES + 5)
    assert table.missing(0, CHUNK_PAGES) is None
    assert table.missing(0, CHUNK_PAGES + 1) == CHUNK_PAGES
    assert table.unknown_run(CHUNK_PAGES, 8) == 3 * CHUNK_PAGES
    assert table.unknown_run(CHUNK_PAGES, 2) == 2 * CHUNK_PAGES
    assert table.missing(4 * CHUNK_PAGES, 5 * CHUNK_PAGES) is None
    table.fill(b"", CHUNK_PAGES, 2 * CHUNK_PAGES)
    assert table.missing(0, 3 * CHUNK_PAGES) is None
    assert table.missing(0, 3 * CHUNK_PAGES + 1) == 3 * CHUNK_PAGES


def test_a_grant_that_covers_the_whole_file_leaves_nothing_to_fetch() -> None:
    table = ExtentMap()
    table.reset(700, 700)
    assert table.missing(0, 10 * CHUNK_PAGES) is None


def test_pages_written_before_their_chunk_was_fetched_stay() -> None:
    table = ExtentMap()
    table.reset(0, CHUNK_PAGES)
    table.insert(5, 9, 0, 77, 64, (1234,))
    assert table.missing(5, 6) == 0, "one written page does not make its chunk known"
    packed = pack_extent(3, 1, 0, 10, 4096, [1, 2, 3, 4])
    packed += pack_extent(4, 1, 0, 11, 8192, [8])
    table.fill(packed, 0, CHUNK_PAGES)
    assert table.missing(0, CHUNK_PAGES) is None
    found = [table.page(page) for page in range(3, 7)]
    assert [place.sequence for place in found if place] == [10, 11, 77, 10]


def test_forgetting_makes_everything_unknown_and_changes_the_version() -> None:
    table = ExtentMap()
    table.reset(10, 10)
    before = table.version
    table.forget()
    assert table.missing(0, 1) == 0
    assert table.version != before


def test_fetched_extents_outside_the_question_are_refused() -> None:
    table = ExtentMap()
    table.reset(0, 5 * CHUNK_PAGES)
    with pytest.raises(ProtocolError):
        table.fill(pack_extent(CHUNK_PAGES, 1, 0, 1, 64, [1]), 0, CHUNK_PAGES)
