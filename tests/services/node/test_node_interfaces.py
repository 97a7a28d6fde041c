"""The interface list as a node gives it."""

from __future__ import annotations

from pathlib import Path

from node_world import world

from sofs.core import messages as m
from sofs.core import witness as rules

NODES = ["a:1", "b:1"]
WITNESSES = ["a:2", "b:2"]


async def test_swn_list_self_the_own_entry_may_not_witness_and_the_cluster_has_a_name(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        await w.node("a", interfaces=rules.configured_interfaces(NODES, WITNESSES, "a:1"))
        client = await w.client()
        reply = await client.call(m.GetInterfaceList())
        assert reply.net_name == "a.b"
        own = {i.node: bool(i.flags & rules.MAY_WITNESS) for i in reply.interfaces}
        assert own == {"a:1": False, "b:1": True}


async def test_swn_list_single_node_is_not_answered_and_ends_with_the_session(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        alone = rules.configured_interfaces(NODES[:1], WITNESSES[:1], "a:1")
        await w.node("a", interfaces=alone)
        client = await w.client()
        asked = client.send(m.GetInterfaceList())
        await client.open()  # What comes later does not wait for it.
        assert not asked.done()
        node = w.nodes["a"].node
        assert node is not None

        def runs() -> bool:
            return any("GetInterfaceList" in task.get_name() for task in node.tasks._tasks)

        assert runs()
        await client.close()
        await w.until("nothing of it runs", lambda: not runs())
