"""When a batch of records goes to the authority."""

from __future__ import annotations

from pathlib import Path

import pytest
from node_world import KIB, world

from sofs.services.node import commits
from sofs.storage import LogOptions


async def test_a_batch_that_spans_many_segments_is_sent_before_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On slots a segment is an object that a take-over fetches: their number bounds its time."""
    monkeypatch.setattr(commits, "COMMIT_AGE_MS", 600_000)
    small = LogOptions(first_bytes=16 * KIB, segment_bytes=16 * KIB)
    async with world(tmp_path, "a", options=small) as w:
        file = await (await w.client()).open()
        node = w.nodes["a"].node
        assert node is not None
        for number in range(2 * commits.COMMIT_SEGMENTS):
            await file.write(number * 12 * KIB, b"x" * 12 * KIB)  # One segment each.
        assert node.commits._segment >= 2 * commits.COMMIT_SEGMENTS - 2
        await w.until("sent", lambda: node.commits.batches)
        await w.until("applied", lambda: node.commits.applied_sequence >= commits.COMMIT_SEGMENTS)
        behind = node.commits._segment - node.commits._taken_segment
        assert behind < commits.COMMIT_SEGMENTS
