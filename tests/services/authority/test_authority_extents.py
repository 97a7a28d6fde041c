"""Runs of pages entered in lists, against a dictionary of pages."""

from __future__ import annotations

from authority_harness import NOW, Volume
from hypothesis import given, settings
from hypothesis import strategies as st

from sofs.core import messages as m
from sofs.core.extents import unpack_extents

PAGES = 16
run_lists = st.lists(
    st.one_of(
        st.lists(st.tuples(st.integers(0, PAGES - 1), st.just(1)), min_size=1, max_size=12),
        st.lists(
            st.sampled_from(((0, 4), (2, 1), (0, 1), (3, 1), (4, 4), (6, 1), (2, 4))),
            min_size=1, max_size=8,
        ),
        st.lists(
            st.tuples(st.integers(0, PAGES - 4), st.integers(1, 4)), min_size=1, max_size=8
        ),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(run_lists, st.booleans())
def test_lists_of_runs_leave_the_newest_run_of_every_page(
    lists: list[list[tuple[int, int]]], replayed: bool
) -> None:
    volume = Volume()
    node = volume.node("a")
    client = volume.client("one", node)
    held = client.open("/f")
    assert held.grant is not None
    ino, token = held.info.ino, held.grant.generation
    model: dict[int, int] = {}
    size = 0
    for n, runs in enumerate(lists):
        packed, tail = b"", []
        for page, pages in runs:
            size = max(size, 4096 * (page + pages))
            if replayed and n == len(lists) - 1:
                tail.append(node.record(ino, page, pages, handle=held.handle, token=token))
            else:
                packed += node.extent(page, pages)
            model |= dict.fromkeys(range(page, page + pages), node.sequence)
        if tail:
            volume.run(lambda s, t=tail: s.replay_tail(node.log_id, t))
        else:
            commit = node.commit(m.FileCommit(ino, token, size, NOW, packed))
            volume.run(lambda s, c=commit: s.apply_commit(c))
        volume.check()
    packed = volume.state._packed(ino, 0, PAGES)[0]
    found = {run.page + i: run.sequence for run in unpack_extents(packed) for i in range(run.pages)}
    assert found == model
    sums = {
        run.page + i: int.from_bytes(run.sums[8 * i : 8 * i + 8], "little")
        for run in unpack_extents(packed)
        for i in range(run.pages)
    }
    assert sums == model
    volume.close()
