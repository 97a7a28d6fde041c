"""Leader, DNS part and a root as they are composed for Ray, over gRPC, with machines that the test
holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dns.asyncquery
import dns.rcode
from zone_rig import host_port, query_of, texts

from sofs.actors import ray_cluster
from sofs.actors.compose import PartConfig, create_roots, make_world, start_part
from sofs.core.messages import MemberList
from sofs.errors import SofsError
from sofs.ports.platform import Machine, PartFacts, PartOrder
from sofs.services.leader.ask import member_list

CREDENTIAL = "c" * 43
NAME = "files.example.org"
HOSTS = ("127.0.0.10", "127.0.0.9")


class Machines:
    """A platform on which parts only seem to run."""

    def __init__(self, *alive: str) -> None:
        self.alive = list(alive)
        self.orders: dict[str, PartOrder] = {}

    async def machines(self) -> list[Machine]:
        return [Machine(name, name) for name in self.alive]

    async def parts(self) -> list[str]:
        return sorted(self.orders)

    async def create(self, order: PartOrder) -> None:
        self.orders[order.name] = order

    async def remove(self, name: str) -> None:
        self.orders.pop(name, None)

    async def describe(self, name: str) -> PartFacts:
        return PartFacts()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # What it looks at has no events.
            await asyncio.sleep(0.01)


def leader_config(root: str, folder: Path) -> PartConfig:
    port = ray_cluster.pick_ports(list(HOSTS), 2)
    return PartConfig(
        role="leader",
        name="leader",
        root=root,
        address="127.0.0.1:0",
        credential=CREDENTIAL,
        run_dir=str(folder / "run"),
        run_id="ab" * 16,
        wanted_nodes=3,
        node_port=7440,
        witness_port=7441,
        dns=[f"{host}:{port}" for host in HOSTS],
        dns_name=NAME,
        dns_addresses=[f"{host}:{port + 1}" for host in HOSTS],
        dns_ttl_s=9,
    )


async def test_the_leaders_roster_reaches_each_new_life_of_a_dns_part_and_not_both_are_needed(
    tmp_path: Path,
) -> None:
    root = str(tmp_path / "root")
    create_roots(root, CREDENTIAL, "share")
    config = leader_config(root, tmp_path)
    # The other one of the two never runs.
    dns_config = replace(config, role="dns", name="dns-2", address=config.dns[1])
    fatal: list[BaseException] = []
    world = make_world(CREDENTIAL)
    machines = Machines("m-1", "m-2", "m-3")
    known: list[MemberList] = []

    async def look() -> None:
        """Ask until cancelled; what is known last stands in ``known``."""
        while True:
            try:
                known.append(await member_list(world.clock, world.transport, config.dns[1]))
            except SofsError:
                known.clear()
            await asyncio.sleep(0.02)

    def listed() -> list[str]:
        return [m.node for m in known[-1].members if m.listed] if known else []

    async def ask() -> list[str]:
        host, wire_port = host_port(config.dns_addresses[1])
        reply = await dns.asyncquery.udp(query_of("A", NAME), host, timeout=5, port=wire_port)
        if reply.rcode() == dns.rcode.SERVFAIL:
            return ["SERVFAIL"]
        assert reply.answer[0].ttl == 9
        return sorted(texts(reply))

    everybody = ["node-1", "node-2", "node-3"]
    looking = asyncio.create_task(look())
    part = await start_part(dns_config, fatal.append, world=world)
    assert await ask() == ["SERVFAIL"]
    leader = await start_part(config, fatal.append, world=world, platform=machines)
    await until(lambda: listed() == everybody)
    assert await ask() == ["127.0.0.11", "127.0.0.12", "127.0.0.13"]
    orders = [machines.orders[name] for name in ("dns-1", "dns-2")]
    assert [order.address for order in orders] == config.dns
    assert [order.machine for order in orders] == ["m-3", "m-2"]
    host, wire_port = host_port(config.dns_addresses[1])
    query = query_of("NS", NAME)
    servers = await dns.asyncquery.udp(query, host, timeout=5, port=wire_port)
    assert sorted(texts(servers)) == [f"ns1.{NAME}.", f"ns2.{NAME}."]
    assert sorted(r.to_text().split()[-1] for r in servers.additional) == sorted(HOSTS)
    machines.alive.remove("m-2")
    await until(lambda: listed() == ["node-1", "node-3"])
    assert await ask() == ["127.0.0.11", "127.0.0.13"]
    epoch = known[-1].epoch
    await leader.close()  # Its death evicts nobody, and the next one speaks for itself.
    assert await ask() == ["127.0.0.11", "127.0.0.13"]
    await part.close()
    part = await start_part(dns_config, fatal.append, world=world)
    assert await ask() == ["SERVFAIL"]
    leader = await start_part(config, fatal.append, world=world, platform=machines)
    await until(lambda: listed() == ["node-1", "node-3"] and known[-1].epoch == epoch + 1)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    await leader.close()
    await part.close()
    await world.transport.close()
    world.blocking.close()
    assert not fatal
