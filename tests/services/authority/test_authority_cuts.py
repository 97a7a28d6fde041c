"""Files of more runs than one transaction may drop: gone at once for everybody, deleted bit by
bit."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from authority_cluster import PeerNode, world
from authority_harness import NOW, Volume
from hypothesis import given, settings
from hypothesis import strategies as st

from sofs.core import messages as m
from sofs.core import record
from sofs.core.extents import pack_extent, unpack_extents
from sofs.services.authority import cuts, group_log
from sofs.services.authority.cuts import LiveDelta

PAGES = 24
RUNS = 2_000
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, PAGES - 4), st.integers(1, 4)),
        st.tuples(st.just("cut"), st.integers(0, PAGES), st.just(0)),
        st.tuples(st.just("drop"), st.just(0), st.just(0)),
    ),
    min_size=4, max_size=24,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(steps)
def test_a_file_never_shows_a_page_that_was_cut_and_keeps_every_later_one(
    taken: list[tuple[str, int, int]],
) -> None:
    before = cuts.DROP_RUNS_MAX
    cuts.DROP_RUNS_MAX = 2  # type: ignore[misc]
    volume = Volume()
    node = volume.node("a")
    held = volume.client("one", node).open("/f")
    assert held.grant is not None
    ino, token = held.info.ino, held.grant.generation
    model: dict[int, int] = {}
    size = 0

    def shrink(first: int) -> None:
        live = LiveDelta()
        volume.state._drop_pages(ino, first, live)
        volume.state._flush_live(live)
        volume.state._run("UPDATE inode SET size=? WHERE ino=?", size, ino)

    try:
        for kind, first, pages in taken:
            if kind == "write":
                size = max(size, 4096 * (first + pages))
                packed = node.extent(first, pages)
                commit = node.commit(m.FileCommit(ino, token, size, NOW, packed))
                volume.run(lambda s, c=commit: s.apply_commit(c))
                model |= dict.fromkeys(range(first, first + pages), node.sequence)
            elif kind == "cut":
                size = min(size, 4096 * first)
                volume.run(lambda s, f=first: shrink(f))
                model = {page: sequence for page, sequence in model.items() if page < first}
            else:
                volume.run(lambda s: s.drop_some())
            volume.check()
            runs = unpack_extents(volume.state._packed(ino, 0, PAGES)[0])
            assert {r.page + i: r.sequence for r in runs for i in range(r.pages)} == model
            for page in range(PAGES):
                assert volume.state._has_page(ino, page) == (page in model)
        while volume.run(lambda s: s.drop_some()):
            volume.check()
        assert not volume.state._all_cuts()
        rows = volume.state._all("SELECT sum(pages) FROM extent")
        assert (rows[0][0] or 0) == len(model), "every run that was cut is deleted in the end"
    finally:
        cuts.DROP_RUNS_MAX = before  # type: ignore[misc]
        volume.close()


async def many_runs(node: PeerNode) -> m.OpenReply:
    """Open a file and give it RUNS runs of one page."""
    call = node.call
    opened = await call(
        m.Open(
            caller=m.Caller(b"c" * 16, "p", 1), path="/f",
            access=int(m.Access.READ | m.Access.WRITE | m.Access.DELETE), share=7, disposition=3,
            create_guid=b"g" * 16,
        )
    )  # fmt: skip
    assert isinstance(opened, m.OpenReply)
    assert opened.grant is not None
    log_id, sent = node.registration.log_id, 0
    while sent < RUNS:
        packed = b"".join(
            pack_extent(2 * page, log_id, 0, page + 1, 4096 * page, [page])
            for page in range(sent, sent + 200)
        )
        file = m.FileCommit(opened.info.ino, opened.grant.generation, 8192 * RUNS, 1, packed)
        await call(m.CommitRecords(m.Commit(log_id, sent, sent + 200, [file])))
        sent += 200
    return opened


@pytest.mark.parametrize("how", ["truncate", "delete"])
async def test_a_file_of_more_runs_than_a_record_holds_is_emptied_and_a_take_over_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(record, "PAYLOAD_BYTES_MAX", 96 * 1024)  # As if it had a million runs.
    monkeypatch.setattr(cuts, "DROP_RUNS_MAX", 256)
    async with world(tmp_path) as w:
        await w.start("coordinator")
        await w.until_active("coordinator")
        await w.start("resume-key")
        await w.until_in_step("resume-key")
        node = await PeerNode(w, "n").join()
        opened = await many_runs(node)
        ino = opened.info.ino
        caller = m.Caller(b"c" * 16, "p", 2)
        body: m.Message
        if how == "truncate":
            body = m.Truncate(caller=caller, handle=opened.handle, generation=1, size=4096)
        else:
            body = m.SetInfo(caller=caller, handle=opened.handle, generation=1, delete_on_close=1)
        answer = await node.call(body)
        if how == "delete":
            body = m.Close(caller=m.Caller(b"c" * 16, "p", 3), handle=opened.handle, generation=1)
            answer = await node.call(body)
        await w.kill("coordinator")  # With most of the runs still in the table.
        second = await w.until_active("resume-key")
        assert second.active is not None
        state = second.active.state
        assert await node.call(body) == answer, "the stored answer is given again"
        packed = state._packed(ino, 1, 2 * RUNS)[0]
        assert not packed, "what was cut is no longer part of the file"
        state.check()
        await w.until("all runs deleted", lambda: not state._all_cuts())
        left = state._one("SELECT count(*) FROM extent")[0]
        assert left == (1 if how == "truncate" else 0)
        state.check()
        await node.die()


async def test_a_group_waits_when_it_holds_as_many_changes_as_a_record_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(group_log, "GROUP_ROWS_MAX", 8)
    async with world(tmp_path) as w:
        await w.start("coordinator")
        part = await w.until_active("coordinator")
        node = await PeerNode(w, "n").join()
        assert part.active is not None
        await node.call(m.Mkdir(m.Caller(b"c" * 16, "p", 1), "/1"))
        groups = part.active.group.groups
        calls = [
            node.call(m.Mkdir(m.Caller(b"c" * 16, "p", op_id), f"/{op_id}"))
            for op_id in range(2, 66)
        ]
        await asyncio.gather(*calls)
        # Each makes at least four rows: never more than three of them are in one group.
        assert part.active.group.groups - groups >= 64 / 3
        await node.die()
