"""A node whose address another process has at first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from node_world import world

from sofs.errors import Unavailable


async def test_a_node_takes_its_address_once_the_other_copy_is_gone(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first = await w.node("first", address="a:1")
        second = await w.node("second", address="a:1")
        assert first.address == "a:1"
        assert second.address != "a:1", "it must not share the address of one that lives"
        elsewhere = second.address
        await w.kill_node("first")
        with pytest.raises(Unavailable):
            await w.hub.connect("a:1", "file")
        await w.until("the address is served again", lambda: "a:1" in w.hub._listeners)
        assert second.address == elsewhere, "what its claim names stays"
        for address in ("a:1", elsewhere):
            stream = await w.hub.connect(address, "file")
            stream.close()
        await second.close()
        assert "a:1" not in w.hub._listeners
        w.nodes.pop("second")


async def test_a_host_that_is_spelled_otherwise_is_no_other_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        listen = w.hub.listen
        monkeypatch.setattr(
            w.hub, "listen", lambda address, accept: listen(address.replace("host", "a"), accept)
        )
        made = await w.node("one", address="host:1")
        assert made.address == "a:1"
        assert not [task for task in asyncio.all_tasks() if "regain" in task.get_name()]
