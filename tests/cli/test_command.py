"""The command without Ray: defined answers for everything that can be wrong before Ray is
started."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sofs.actors import lifecycle, procfile, ray_cluster, rundir
from sofs.actors.compose import create_roots
from sofs.actors.lifecycle import UpOptions
from sofs.actors.rundir import RunRecord
from sofs.cli import delegate
from sofs.cli.main import main
from sofs.core.messages import PartStateReply
from sofs.errors import (
    CredentialRefused,
    DiskFull,
    FormatRefused,
    InvalidParameter,
    ReadOnlyBackend,
    SofsError,
    Unavailable,
)
from sofs.rpc.credential import CREDENTIAL_FILE, read_credential
from sofs.storage import SystemEntropy, attach, roots

Mount = Callable[..., Path]
CREDENTIAL = "c" * 43


def record(root: Path, cluster: bytes, **changes: object) -> RunRecord:
    made = RunRecord(
        root=str(root),
        cluster=cluster.hex(),
        run_id="ab" * 16,
        nodes=3,
        node_port=20_000,
        witness_port=20_001,
        ray_port=20_002,
        temp="/tmp/sofs-none/t",
        hosts=["127.0.0.11"],
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def never(*arguments: object, **named: object) -> None:
    raise AssertionError("Ray would be started")


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever would start a Ray node has not been refused in time."""
    monkeypatch.setattr(ray_cluster, "start_node", never)


# The command line -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["up", "--nodes", "0"],
        ["up", "--port", "80"],
        ["down", "extra"],
        ["status", "-x"],
        ["dns"],
        ["dns", "rm"],
        ["up", "--dns-ttl", "x"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: sofs" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["up"], ["down"], ["status"], ["dns"], ["dns", "ls"]])
def test_help_has_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "examples:\n  sofs " in capsys.readouterr().out


def test_an_error_of_sofs_is_one_line_and_exits_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise Unavailable("try again")

    monkeypatch.setattr(lifecycle, "up", refuse)
    assert main(["up"]) == 3
    assert capsys.readouterr().err == "sofs: UNAVAILABLE: try again\n"


def test_a_command_that_is_not_installed_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(delegate.importlib.util, "find_spec", lambda name: None)
    assert main(["demo"]) == 3
    assert "no `sofs demo`" in capsys.readouterr().err


def test_a_delegated_command_gets_its_arguments_and_gives_the_exit_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[list[str]] = []

    def demo(arguments: list[str]) -> int:
        given.append(arguments)
        return 1

    monkeypatch.setattr(delegate, "_find", lambda name: demo)
    assert main(["demo", "--help", "-x", "7"]) == 1
    assert given == [["--help", "-x", "7"]]


def test_the_module_is_the_command_and_never_imports_ray() -> None:
    code = (
        "import sys; sys.argv = ['sofs', '--version']\n"
        "try:\n    import sofs.__main__; sofs.__main__.main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert not any(name == 'ray' or name.startswith('ray.') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sofs ")


# Nothing is up ----------------------------------------------------------------------------------


def test_down_with_nothing_up_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0
    assert capsys.readouterr().out == "no cluster is up\n"


def test_status_with_nothing_up_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["up"] is False
    assert report["notes"] == ["no cluster is up"]


def test_dns_ls_with_nothing_up_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dns", "ls"]) == 3
    assert "no cluster is up" in capsys.readouterr().err


def test_dns_ls_without_a_dns_part_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFS_CREDENTIAL", CREDENTIAL)
    rundir.make_private(tmp_path / "run")
    rundir.write_run(tmp_path / "run", record(tmp_path, b"c" * 16))
    assert main(["dns", "ls", "--run-dir", str(tmp_path / "run")]) == 3
    assert "no DNS part tells who is listed: there is none" in capsys.readouterr().err
    made = record(tmp_path, b"c" * 16, dns_hosts=["127.0.0.10", "127.0.0.9"], dns_port=20_002)
    rundir.write_run(tmp_path / "run", made)
    assert main(["dns", "ls", "--run-dir", str(tmp_path / "run")]) == 3
    assert "dns-1: it does not run; `sofs status`" in capsys.readouterr().err


@pytest.mark.parametrize("older", [{}, {"dns_host": "127.0.0.10", "dns_port": 20_003}])
def test_a_run_of_a_version_without_dns_parts_is_read_and_has_none(
    tmp_path: Path, older: dict[str, object]
) -> None:
    rundir.make_private(tmp_path / "run")
    rundir.write_run(tmp_path / "run", record(tmp_path, b"c" * 16))
    path = tmp_path / "run" / rundir.RUN_FILE
    fields = json.loads(path.read_text())
    path.write_text(
        json.dumps({k: v for k, v in fields.items() if not k.startswith("dns")} | older)
    )
    found = rundir.read_run(tmp_path / "run")
    assert found is not None
    assert (found.dns, found.dns_addresses, found.dns_url) == ([], [], "")
    assert not [name for name in lifecycle.part_names(found) if name.startswith("dns")]
    assert lifecycle.leader_config(tmp_path / "run", found).dns == []


def test_a_cluster_of_one_node_has_one_dns_part_and_others_two() -> None:
    found = {
        nodes: lifecycle.part_names(
            record(Path("/r"), b"c", nodes=nodes, dns_hosts=lifecycle.dns_hosts_of(nodes))
        )
        for nodes in (1, 2, 64)
    }
    assert {n: sum(name.startswith("dns") for name in names) for n, names in found.items()} == {
        1: 1,
        2: 2,
        64: 2,
    }


def test_down_after_a_reboot_kills_nothing_and_forgets_the_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rundir.make_private(tmp_path / "run")
    rundir.write_run(tmp_path / "run", record(tmp_path, b"c" * 16))
    mine = replace(procfile.own_facts("node-1", "node"), boot_id="of another boot")
    procfile.write(tmp_path / "run", mine)
    head = replace(mine, name="ray-head", role=ray_cluster.HEAD)
    procfile.write(tmp_path / "run", head)
    assert main(["down", "--run-dir", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert "another boot" in said.err
    assert said.out == "no cluster is up\n"
    assert procfile.read_all(tmp_path / "run") == []
    found = rundir.read_run(tmp_path / "run")
    assert found is not None
    assert not found.up
    assert main(["down", "--run-dir", str(tmp_path / "run")]) == 0


def test_the_run_is_found_by_its_root_and_several_must_be_named(tmp_path: Path) -> None:
    base = rundir.base_dir(os.environ)
    for name in ("a", "b"):
        rundir.make_private(base / name)
        rundir.write_run(base / name, record(tmp_path / name, name.encode() * 16))
    found = rundir.find_run_dir(None, str(tmp_path / "b"), os.environ)
    assert found == base / "b"
    with pytest.raises(InvalidParameter, match="several clusters are up"):
        rundir.find_run_dir(None, None, os.environ)
    rundir.write_run(base / "a", record(tmp_path / "a", b"a" * 16, up=False))
    assert rundir.find_run_dir(None, None, os.environ) == base / "b"


def test_a_run_file_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": 99}')
    with pytest.raises(FormatRefused, match="another version"):
        rundir.read_run(tmp_path)


def test_only_one_command_works_on_a_run_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rundir, "LOCK_WAIT_S", 0.0)
    with rundir.locked(tmp_path), pytest.raises(Unavailable, match="at work"):
        lifecycle.down(tmp_path)


# What `up` refuses ------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_ray")
class TestUpRefuses:
    def refusal(self, kind: type[SofsError], root: Path | str, **options: object) -> str:
        with pytest.raises(kind) as refused:
            lifecycle.up(UpOptions(root=str(root), **options), os.environ)  # type: ignore[arg-type]
        return str(refused.value)

    def test_a_full_disk(self, mount: Mount) -> None:
        folder = mount("size=64k")
        with open(folder / "fill", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        self.refusal(DiskFull, folder / "root")

    def test_a_read_only_root(self, mount: Mount) -> None:
        folder = mount("size=1m")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        self.refusal(ReadOnlyBackend, folder / "root")

    def test_a_cluster_whose_credential_is_elsewhere(self, tmp_path: Path) -> None:
        create_roots(str(tmp_path / "root"), CREDENTIAL, "share")
        assert "SOFS_CREDENTIAL" in self.refusal(CredentialRefused, tmp_path / "root")

    def test_another_clusters_credential(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create_roots(str(tmp_path / "root"), CREDENTIAL, "share")
        monkeypatch.setenv("SOFS_CREDENTIAL", "d" * 43)
        self.refusal(CredentialRefused, tmp_path / "root")

    def test_a_run_dir_of_another_root(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOFS_CREDENTIAL", CREDENTIAL)
        rundir.make_private(tmp_path / "run")
        rundir.write_run(tmp_path / "run", record(tmp_path / "other", b"o" * 16))
        text = self.refusal(InvalidParameter, tmp_path / "root", run_dir=str(tmp_path / "run"))
        assert "belongs to the cluster on" in text

    def test_other_nodes_or_another_port_than_it_is_up_with(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOFS_CREDENTIAL", CREDENTIAL)
        cluster = create_roots(str(tmp_path / "root"), CREDENTIAL, "share")
        rundir.make_private(tmp_path / "run")
        rundir.write_run(tmp_path / "run", record(tmp_path / "root", cluster))
        run = str(tmp_path / "run")
        assert "3 nodes" in self.refusal(InvalidParameter, tmp_path / "root", run_dir=run, nodes=5)
        assert "20000" in self.refusal(
            InvalidParameter, tmp_path / "root", run_dir=run, port=25_000
        )

    def test_another_name_or_ttl_than_it_is_up_with(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOFS_CREDENTIAL", CREDENTIAL)
        cluster = create_roots(str(tmp_path / "root"), CREDENTIAL, "share")
        rundir.make_private(tmp_path / "run")
        named = record(tmp_path / "root", cluster, dns_port=20_002, dns_name="a.b", dns_ttl_s=60)
        rundir.write_run(tmp_path / "run", named)
        run = str(tmp_path / "run")
        for options, word in [({"dns_name": "c.d"}, "'a.b'"), ({"dns_ttl_s": 0}, "60 s")]:
            text = self.refusal(InvalidParameter, tmp_path / "root", run_dir=run, **options)
            assert word in text

    @pytest.mark.parametrize("options", [{"dns_name": "a b"}, {"dns_ttl_s": -1}])
    def test_a_name_or_ttl_that_dns_does_not_have(
        self, tmp_path: Path, options: dict[str, object]
    ) -> None:
        self.refusal(InvalidParameter, tmp_path / "root", **options)
        assert not (tmp_path / "root").exists()

    @pytest.mark.parametrize("host", lifecycle.DNS_HOSTS)
    @pytest.mark.parametrize("offset", range(4))
    def test_a_busy_udp_port_of_the_four(self, tmp_path: Path, offset: int, host: str) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as busy:
            busy.bind((host, 0))
            port = busy.getsockname()[1] - offset
            assert "taken" in self.refusal(InvalidParameter, tmp_path / "root", port=port)

    def test_a_busy_port(self, tmp_path: Path) -> None:
        with socket.socket() as busy:
            busy.bind(("127.0.0.12", 0))
            busy.listen()
            port = busy.getsockname()[1]
            assert "taken" in self.refusal(InvalidParameter, tmp_path / "root", port=port)

    def test_a_run_dir_that_others_may_write(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run").chmod(0o777)
        run = str(tmp_path / "run")
        assert "by others" in self.refusal(InvalidParameter, tmp_path / "root", run_dir=run)

    def test_a_root_that_no_driver_serves(self) -> None:
        assert main(["up", "--root", "s3://bucket/x"]) == 3

    def test_too_many_nodes(self, tmp_path: Path) -> None:
        self.refusal(InvalidParameter, tmp_path / "root", nodes=65)


def test_a_start_that_fails_leaves_no_process_and_no_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    temps: list[str] = []

    def start(run_dir: Path, run: RunRecord, number: int, *, die_with_parent: bool) -> None:
        temps.append(run.temp)
        process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        started.append(process)
        ticks = procfile.start_ticks(process.pid)
        facts = procfile.ProcFacts(
            f"ray-{number}", ray_cluster.RAY_NODE, process.pid, ticks, procfile.boot_id()
        )
        procfile.write(run_dir, facts)
        raise Unavailable("ray-head did not start")

    monkeypatch.setattr(ray_cluster, "start_node", start)
    with pytest.raises(Unavailable, match="did not start"):
        lifecycle.up(UpOptions(root=str(tmp_path / "root")), os.environ)
    assert [process.wait() for process in started] == [-9]
    assert not any(Path(temp).exists() for temp in temps)


# Credentials ------------------------------------------------------------------------------------


def test_a_new_roots_credential_is_kept_before_the_root_exists_and_found_after_a_crash(
    tmp_path: Path,
) -> None:
    root = str(tmp_path / "root")
    drawn = rundir.credential_for(root, None, None, os.environ)
    # The command dies here, or after it made the cluster and before it kept the credential by uuid.
    assert rundir.credential_for(root, None, None, os.environ) == drawn
    create_roots(root, drawn, "share")
    cluster = roots.open_cluster(attach(root))
    assert rundir.credential_for(root, cluster, None, os.environ) == drawn


def test_the_credential_outlives_the_run_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Unavailable("far enough")

    monkeypatch.setattr(ray_cluster, "start_node", stop)
    root = tmp_path / "root"
    with pytest.raises(Unavailable):
        lifecycle.up(UpOptions(root=str(root)), os.environ)
    cluster = roots.open_cluster(attach(str(root)))
    assert cluster is not None
    run_dir = rundir.base_dir(os.environ) / cluster.cluster.hex()
    kept = read_credential(run_dir / CREDENTIAL_FILE)
    assert (run_dir / CREDENTIAL_FILE).stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "after-reboot"))
    assert rundir.credential_for(str(root), cluster, None, os.environ) == kept
    assert not list(rundir.keyring_dir(os.environ).glob("pending-*"))


def test_a_named_run_dir_keeps_its_credential_to_itself(tmp_path: Path) -> None:
    run = tmp_path / "run"
    rundir.make_private(run)
    drawn = rundir.credential_for(str(tmp_path / "root"), None, run, os.environ)
    assert read_credential(run / CREDENTIAL_FILE) == drawn
    assert not rundir.keyring_dir(os.environ).exists()


def test_a_kept_credential_of_another_cluster_is_not_used(tmp_path: Path) -> None:
    store = attach(str(tmp_path / "root"))
    cluster = roots.create_cluster(store, credential=CREDENTIAL.encode(), entropy=SystemEntropy())
    other = rundir.keyring_dir(os.environ) / cluster.cluster.hex()
    rundir.keep_credential("d" * 43, other)
    with pytest.raises(CredentialRefused):
        rundir.credential_for(str(tmp_path / "root"), cluster, None, os.environ)


# Places -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [10, 200])
def test_rays_folder_is_ours_alone_and_short(tmp_path: Path, length: int) -> None:
    run_dir = tmp_path / ("x" * length)
    run_dir.mkdir()
    temp = rundir.make_temp(run_dir)
    try:
        assert len(str(temp)) < 50 or length < 50
        assert temp.parent.stat().st_mode & 0o777 == 0o700
    finally:
        rundir.remove_temp(str(temp))
    assert not temp.parent.exists()


def test_ports_are_below_the_ephemeral_ones_and_free_at_every_host() -> None:
    hosts = ["127.0.0.11", "127.0.0.12"]
    port = ray_cluster.pick_ports(hosts, 2)
    assert 20_000 <= port < 30_000
    with socket.socket() as taken:
        taken.bind(("127.0.0.12", port + 1))
        taken.listen()
        assert ray_cluster.is_free(hosts, port)
        assert not ray_cluster.is_free(hosts, port + 1)


def test_parts_of_drained_machines_are_not_waited_for(tmp_path: Path) -> None:
    made = record(tmp_path, b"c" * 16)
    drained = PartStateReply("leader", facts=["slots=1:ab,3:cd", "drained=ray-node-2", "x"])
    assert lifecycle.drained_parts(made, drained) == ["node-2", "witness-2"]
    lost = PartStateReply("leader", facts=["slots=1:ab,3:cd", "drained="])
    assert lifecycle.drained_parts(made, lost) == []  # It is to come back.
    assert lifecycle.drained_parts(made, "does not answer") == []
    assert lifecycle.drained_parts(made, None) == []
