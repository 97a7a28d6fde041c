"""`sofs share`, `sofs node` and `sofs volume` against a leader that runs in this process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sofs.actors import admin
from sofs.actors.compose import PartConfig, RunningPart, create_roots, start_part
from sofs.cli.main import main
from sofs.errors import Unavailable
from sofs.ports.platform import Machine, PartFacts, PartOrder

CREDENTIAL = "c" * 43


class Platform:
    """Three machines on which everything appears at once; no part has a process."""

    def __init__(self) -> None:
        self.running: dict[str, PartOrder] = {}

    async def machines(self) -> list[Machine]:
        return [Machine(f"id-{i}", f"m-{i}", draining=i == 4) for i in (1, 2, 3, 4)]

    async def parts(self) -> list[str]:
        return sorted(self.running)

    async def create(self, order: PartOrder) -> None:
        self.running[order.name] = order

    async def remove(self, name: str) -> None:
        self.running.pop(name, None)

    async def describe(self, name: str) -> PartFacts:
        raise Unavailable("no process")


class Leader:
    """A leader on a thread of its own, over real sockets."""

    def __init__(self, root: Path, run_dir: Path) -> None:
        self.root = root
        self._config = PartConfig(
            role="leader",
            name="leader",
            root=str(root),
            address="127.0.0.1:0",
            credential=CREDENTIAL,
            run_dir=str(run_dir),
            run_id="ab" * 16,
            wanted_nodes=3,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._part: RunningPart | None = None
        self.start()

    def start(self) -> None:
        def never(error: BaseException) -> None:
            raise AssertionError(error)

        started = start_part(self._config, never, platform=Platform())
        self._part = asyncio.run_coroutine_threadsafe(started, self._loop).result(30)

    def stop(self) -> None:
        if self._part is not None:
            asyncio.run_coroutine_threadsafe(self._part.close(), self._loop).result(30)
            self._part = None

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Leader]:
    monkeypatch.setenv("SOFS_CREDENTIAL", CREDENTIAL)
    create_roots(str(tmp_path / "root"), CREDENTIAL, "share")
    made = Leader(tmp_path / "root", tmp_path / "run")
    yield made
    made.close()


Sofs = Callable[..., str]


@pytest.fixture
def sofs(leader: Leader, capsys: pytest.CaptureFixture[str]) -> Sofs:
    """Run a command against the leader's root and return what it printed."""

    def run(*arguments: str, status: int = 0) -> str:
        assert main([*arguments, "--root", str(leader.root)]) == status
        printed = capsys.readouterr()
        return printed.err if status else printed.out

    return run


def test_shares_are_created_changed_listed_and_removed(sofs: Sofs) -> None:
    assert sofs("share", "ls").splitlines() == [
        "SHARE  VOLUME  ACCESS      AVAILABLE",
        "share  share   read-write  yes",
    ]
    sofs("share", "create", "logs", "--read-only")
    sofs("share", "change", "LOGS", "--not-available")
    listed = json.loads(sofs("share", "ls", "--json"))
    assert listed["shares"] == [
        {"name": "logs", "volume": "share", "read_only": True, "available": False},
        {"name": "share", "volume": "share", "read_only": False, "available": True},
    ]
    sofs("share", "change", "logs", "--read-write", "--available")
    assert "logs   share   read-write  yes" in sofs("share", "ls")
    assert "logs" not in sofs("share", "rm", "logs")


def test_a_change_says_which_parts_did_not_answer(sofs: Sofs) -> None:
    changed = json.loads(sofs("share", "create", "logs", "--json"))
    assert changed["reached"] == []
    assert set(changed["waiting"]) <= {f"{r}-{i}" for r in ("node", "witness") for i in (1, 2, 3)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "share"), ("OBJECT_NAME_COLLISION", "sofs share change")),
        (("create", "a/b"), ("OBJECT_NAME_INVALID",)),
        (("create", "a", "--volume", "v"), ("OBJECT_NAME_NOT_FOUND", "'v'", "share")),
        (("change", "nosuch"), ("BAD_NETWORK_NAME", "sofs share ls")),
        (("rm", "nosuch"), ("BAD_NETWORK_NAME", "sofs share ls")),
    ],
)
def test_what_is_refused_says_what_to_do_next(
    sofs: Sofs, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    said = sofs("share", *arguments, status=3)
    assert all(word in said for word in words), said


def test_a_command_waits_for_a_leader_that_is_being_restarted(leader: Leader, sofs: Sofs) -> None:
    leader.stop()
    timer = threading.Timer(0.5, leader.start)
    timer.start()
    sofs("share", "create", "logs")
    timer.join()
    assert "logs" in sofs("share", "ls")


def test_without_a_leader_the_command_ends_and_says_so(
    leader: Leader, sofs: Sofs, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader.stop()
    monkeypatch.setattr(admin, "ASK_S_MAX", 0.3)
    said = sofs("share", "create", "logs", status=3)
    assert "no leader answers" in said
    assert "sofs status" in said


def test_machines_are_listed_drained_and_resumed(sofs: Sofs) -> None:
    def slots() -> list[int]:
        return [m["slot"] for m in json.loads(sofs("node", "ls", "--json"))["machines"]]

    while slots() != [1, 2, 3, 0]:  # Each command waits for an answer.
        pass
    assert sofs("node", "drain", "m-9").splitlines()[-1].startswith("m-9 ")
    sofs("node", "drain", "m-2")
    while slots() != [1, 0, 3, 0]:
        pass
    assert "m-2   -     drained" in sofs("node", "ls")
    listed = json.loads(sofs("node", "ls", "--json"))
    assert listed["drained"] == ["m-2", "m-9"]
    sofs("node", "resume", "m-9")
    assert json.loads(sofs("node", "resume", "m-2", "--json"))["drained"] == []


def test_volumes_are_listed(sofs: Sofs) -> None:
    while "m-1" not in (told := sofs("volume", "ls")):
        pass
    assert told.splitlines() == [
        "VOLUME  COORDINATOR  RESUME-KEY  SHARES",
        "share   m-1          m-2         share",
    ]


def test_a_volume_is_created_with_a_share_of_its_name(sofs: Sofs) -> None:
    for _ in range(2):  # It is safe to repeat.
        created = json.loads(sofs("volume", "create", "archive", "--json"))
        assert [v["name"] for v in created["volumes"]] == ["share", "archive"]
    while "m-3" not in (told := sofs("volume", "ls")):
        pass
    assert told.splitlines()[-1] == "archive  m-3          m-1         archive"
    sofs("share", "create", "old", "--volume", "archive")
    assert "OBJECT_NAME_INVALID" in sofs("volume", "create", "No/t", status=3)


def test_a_volume_is_removed_for_good_unless_it_is_in_use(sofs: Sofs, leader: Leader) -> None:
    sofs("volume", "create", "archive")
    said = sofs("volume", "rm", "archive", status=3)
    assert "OBJECT_IN_USE" in said
    assert "the shares archive lead to it" in said
    assert "--force" in said
    left = json.loads(sofs("volume", "rm", "archive", "--force", "--json"))
    assert [v["name"] for v in left["volumes"]] == ["share"]
    assert "OBJECT_NAME_NOT_FOUND" in sofs("volume", "rm", "archive", status=3)
    leader.stop()
    leader.start()
    assert [v["name"] for v in json.loads(sofs("volume", "ls", "--json"))["volumes"]] == ["share"]
    assert (leader.root / "volume-archive" / "volume.json").exists()
    sofs("volume", "create", "archive")  # It comes back as it was.
    assert "archive" in sofs("share", "ls")
    assert "first volume" in sofs("volume", "rm", "share", "--force", status=3)


@pytest.mark.parametrize("noun", ["share", "node", "volume"])
def test_help_has_examples(noun: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([noun, "--help"])
    assert ended.value.code == 0
    assert f"  sofs {noun} ls" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["share"], ["share", "create"], ["node", "drain"], ["volume", "fly"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_without_a_cluster_one_has_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["share", "ls"]) == 3
    assert "--root" in capsys.readouterr().err
