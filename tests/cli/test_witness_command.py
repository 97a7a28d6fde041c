"""`sofs witness` on real processes, whose leader runs in this one."""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import sofs
from sofs.actors.compose import PartConfig, start_part
from sofs.cli.main import main
from sofs.cli.witness import show
from sofs.core.messages import WitnessedClient, WitnessedList
from sofs.ports.platform import Machine, PartFacts, PartOrder
from sofs.services.witness.ask import Survey
from sofs.testing import LocalCluster


class Supervised:
    """The processes of a local cluster as the leader's platform; they run already."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self.ended: list[str] = []

    async def machines(self) -> list[Machine]:
        return [Machine(f"id-{i}", f"m-{i}", draining=False) for i in (1, 2, 3)]

    async def parts(self) -> list[str]:
        return sorted(name for name in self._cluster.parts if name not in self.ended)

    async def create(self, order: PartOrder) -> None:
        assert order.name in self.ended, f"{order.name} runs"
        self.ended.remove(order.name)
        self._cluster.parts[order.name].wanted = True

    async def remove(self, name: str) -> None:
        self.ended.append(name)
        self._cluster.stop(name)

    async def describe(self, name: str) -> PartFacts:
        part = self._cluster.parts[name]
        return PartFacts(address=part.address, state="up", pid=part.pid)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("witness-command")
    with LocalCluster(folder / "root") as made:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        config = PartConfig(
            role="leader",
            name="leader",
            root=made.root,
            address="127.0.0.1:0",
            credential=made.credential,
            run_dir=str(folder / "run"),
            run_id="ab" * 16,
            wanted_nodes=3,
        )
        starting = start_part(config, crashed, platform=Supervised(made))
        leader = asyncio.run_coroutine_threadsafe(starting, loop).result(30)
        yield made
        asyncio.run_coroutine_threadsafe(leader.close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def crashed(error: BaseException) -> None:
    raise AssertionError(error)


@pytest.fixture
def share(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[sofs.Share]:
    monkeypatch.setenv("SOFS_CREDENTIAL", cluster.credential)
    cluster.wait_ready()
    with sofs.connect(cluster.url_from("node-1"), credential=cluster.credential) as made:
        until(lambda: made.facts().witness_address)
        yield made


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def witness(cluster: LocalCluster, *words: str) -> int:
    return main(["witness", *words, "--root", cluster.root])


def test_ls_tells_who_uses_which_node_and_who_watches_it(
    cluster: LocalCluster, share: sofs.Share, capsys: pytest.CaptureFixture[str]
) -> None:
    def clients() -> list[dict[str, object]]:
        assert witness(cluster, "ls", "--json") == 0
        return json.loads(capsys.readouterr().out)["clients"]

    until(clients)  # A leader that has just begun does not know yet where the witnesses listen.
    [client] = clients()
    assert client["ClientName"] == share.client_id.hex()
    assert client["FileServerNode"] == cluster.node_at(share.facts().address)
    assert client["IpAddress"] == share.facts().address
    assert client["ShareName"] == "share"
    assert client["State"] == "RequestedNotification"
    watching = cluster.parts[client["WitnessNode"]]
    assert watching.config.address == share.facts().witness_address
    assert witness(cluster, "ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "CLIENT", "WITNESS", "NODE", "NETNAME", "SHARE", "ADDRESS", "STATE"
    ]  # fmt: skip
    assert share.client_id.hex()[:10] in lines[1]
    assert max(map(len, lines)) <= 100


def test_the_table_fits_whatever_things_are_called(capsys: pytest.CaptureFixture[str]) -> None:
    long = "0123456789" * 9
    client = WitnessedClient(long, long, f"[{long}]:7000", long, "requested-notification")
    listed = WitnessedList(long, long, long, [client], 1)
    show(argparse.Namespace(json=False), Survey([listed], {}))
    assert max(map(len, capsys.readouterr().out.splitlines())) == 100


def test_move_takes_a_client_to_a_node_with_its_handles_and_without_an_error(
    cluster: LocalCluster, share: sofs.Share, capsys: pytest.CaptureFixture[str]
) -> None:
    name = share.client_id.hex()[:6]
    with share.open("/moved", "w+b") as file:
        file.pwrite(b"before", 0)
        share.move(cluster.parts["node-1"].config.address)
        until(lambda: share.facts().witness_address)
        for node in ("node-2", "node-3", "node-3"):
            assert witness(cluster, "move", name, node) == 0
            assert cluster.node_at(share.facts().address) == node
            assert file.pread(6, 0) == b"before"
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{name} uses node-2", f"{name} uses node-3",
                    f"nobody had to move: {name} uses node-3 only"]  # fmt: skip
    assert [r.reason for r in share.failovers()][-2:] == ["witness: move"] * 2


def test_all_clients_of_a_share_move_together(
    cluster: LocalCluster, share: sofs.Share, capsys: pytest.CaptureFixture[str]
) -> None:
    with sofs.connect(cluster.url_from("node-2"), credential=cluster.credential) as other:
        until(lambda: other.facts().witness_address)
        using = {cluster.node_at(s.facts().address) for s in (share, other)}
        target = min({"node-1", "node-2", "node-3"} - using)
        assert witness(cluster, "move", "--share", "share", target) == 0
        assert "2 clients" in capsys.readouterr().out
        assert {cluster.node_at(s.facts().address) for s in (share, other)} == {target}


def test_a_client_that_cannot_go_there_stays_and_the_command_refuses(
    cluster: LocalCluster, share: sofs.Share, capsys: pytest.CaptureFixture[str]
) -> None:
    at = share.facts()
    target = next(f"node-{i}" for i in (1, 2, 3) if f"node-{i}" != cluster.node_at(at.address))
    cluster.stop(target)
    try:
        assert witness(cluster, "move", share.client_id.hex(), target) == 3
        assert "stays at" in capsys.readouterr().err
        assert share.facts().address == at.address
        assert not share.failovers()
    finally:
        cluster.revive()


def test_who_is_not_there_is_named(
    cluster: LocalCluster, share: sofs.Share, capsys: pytest.CaptureFixture[str]
) -> None:
    assert witness(cluster, "move", share.client_id.hex(), "node-9") == 3
    assert "node-1, node-2, node-3" in capsys.readouterr().err
    assert witness(cluster, "move", "zzzzzz", "node-1") == 3
    assert "no client 'zzzzzz'" in capsys.readouterr().err
    watching = share.facts().witness_address
    [silent] = [
        name
        for name, part in cluster.parts.items()
        if part.role == "witness" and part.config.address not in (watching, "")
        and part.config.address.split(":")[0] != share.facts().address.split(":")[0]
    ]  # fmt: skip
    cluster.stop(silent)
    try:
        assert witness(cluster, "ls") == 0
        told = capsys.readouterr()
        assert f"{silent} does not answer" in told.err
        assert share.client_id.hex()[:10] in told.out
    finally:
        cluster.revive()


def test_a_drained_node_is_ended_when_its_clients_are_elsewhere_and_none_saw_an_error(
    cluster: LocalCluster, share: sofs.Share
) -> None:
    share.move(cluster.parts["node-3"].config.address)
    until(lambda: share.facts().witness_address)
    before = len(share.failovers())
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        while not stop.is_set():
            file.pwrite(b"%8d" % len(written), 8 * len(written))
            written.append(1)

    with share.open("/drained", "w+b") as file:
        load = threading.Thread(target=write)
        load.start()
        assert main(["node", "drain", "m-3", "--root", cluster.root]) == 0
        until(lambda: not cluster.parts["node-3"].wanted)
        count = len(written)
        until(lambda: len(written) > count + 10)
        stop.set()
        load.join()
        contents = b"".join(b"%8d" % i for i in range(len(written)))
        assert file.pread(len(contents), 0) == contents
    [move] = share.failovers()[before:]
    assert (move.reason, move.planned, move.handles) == ("witness: move", True, 1)
    assert main(["node", "resume", "m-3", "--root", cluster.root]) == 0
    until(lambda: cluster.parts["node-3"].wanted)
    cluster.wait_ready()
