"""The life cycle of a cluster on this machine: up, down and status, without importing Ray.

``up`` brings what is recorded in the run directory and what is wanted together, from wherever it
starts: nothing there, everything there, the head dead, some Ray nodes dead, all dead since the
machine was booted. ``down`` ends exactly the processes that are recorded, whether Ray answers or
not, and waits until they are gone: every acknowledged write is durable, so nobody needs to be
asked to finish. ``status`` asks each part itself.

A failed first start is taken down again, so that it leaves no process behind.

In a Ray cluster that others started (``UpOptions.address``) Ray's processes are not ours: only the
parts are started, and ended, through ``foreign``.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from sofs.actors import foreign, procfile, ray_cluster, rundir
from sofs.actors.compose import PartConfig, World, create_roots, make_world
from sofs.actors.procfile import ProcFacts
from sofs.actors.ray_cluster import HEAD, RAY_NODE
from sofs.actors.rundir import RunRecord
from sofs.constants import BLOCK_BYTES
from sofs.core.messages import CorruptKind, CorruptList, CorruptPlace, MemberList, PartStateReply
from sofs.core.zone import TTL_DEFAULT_S, Zone, ZoneSettings
from sofs.errors import (
    InvalidParameter,
    OtherRun,
    SofsError,
    StoreFailed,
    Unavailable,
    error_from_code,
)
from sofs.rpc.transport import GrpcTransport
from sofs.services.leader.ask import answers, corrupt_list, member_list, part_state
from sofs.services.leader.part import ELSEWHERE
from sofs.services.leader.plan import DNS, dns_name
from sofs.services.leader.reign import SLOTS_MAX
from sofs.services.leader.run import LEADER_ROLE
from sofs.storage import SystemClock, SystemEntropy, ThreadBlocking, attach, open_fenced, roots

NODES_DEFAULT: Final = 3
READY_S_MAX: Final = 120.0
PROBLEM_S_MAX: Final = 3.0  # A part that cannot start for this long fails the start.
POLL_S: Final = 0.05
LEADER_ASKED_S: Final = 0.5  # Which parts a starting cluster waits for.
PORTS_COUNT: Final = 4  # Node, witness, the DNS parts' registrations and their answers.
DNS_HOSTS: Final = ("127.0.0.10", "127.0.0.9")
DNS_NAME: Final = "sofs.internal"  # Nobody's: ".internal" is for names like this.
SHARE: Final = "share"
DRAINED: Final = "drained"
FREE: Final = "free"
_KINDS: Final = tuple(CorruptKind)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `sofs up` was told. ``nodes``, ``port``, ``dns_name``: 0 and "" mean the default, or
    what was there; so does None for ``dns_ttl_s``. ``address``: of a Ray cluster to live in; "" for
    one of our own."""

    root: str
    nodes: int = 0
    run_dir: str | None = None
    port: int = 0
    take_over: bool = False
    die_with_parent: bool = False
    dns_name: str = ""
    dns_ttl_s: int | None = None
    address: str = ""


@dataclass(frozen=True, slots=True)
class Up:
    """A cluster that serves. ``started``: names of what this call had to start."""

    run_dir: Path
    record: RunRecord
    credential: str
    started: list[str] = field(default_factory=list)


def ignore(line: str) -> None:
    """Progress for nobody."""


# Up ---------------------------------------------------------------------------------------------


def up(options: UpOptions, environment: Mapping[str, str], say: Say = ignore) -> Up:
    """Start the cluster on ``options.root``, or what is missing of it; return when it serves.

    Raises CredentialRefused (another's root), OtherRun (another run serves it), InvalidParameter
    (a bad option, or it is up with others), DiskFull, ReadOnlyBackend, BackendRefused, Unavailable
    (a process did not start; the message names its log).
    """
    if not 0 <= options.nodes <= SLOTS_MAX:
        raise InvalidParameter(f"--nodes {options.nodes}: a cluster has 1 to {SLOTS_MAX} nodes")
    Zone(ZoneSettings(options.dns_name or DNS_NAME, ttl_s=options.dns_ttl_s or 0), 0)
    root = rundir.normal_root(options.root)
    named = Path(options.run_dir).absolute() if options.run_dir is not None else None
    try:
        if named is not None:
            rundir.make_private(named)
        store = attach(root, probe=False)
        credential = rundir.credential_for(root, roots.open_cluster(store), named, environment)
        cluster = create_roots(root, credential, SHARE)
        run_dir = named or rundir.base_dir(environment) / cluster.hex()
        rundir.make_private(run_dir.parent if named is None else run_dir)
        rundir.make_private(run_dir)
        rundir.keep_credential(credential, run_dir)
        if named is None:
            rundir.keep_credential(credential, rundir.keyring_dir(environment) / cluster.hex())
            rundir.forget_pending(root, environment)
        with rundir.locked(run_dir):
            return _up(options, root, cluster, run_dir, credential, say)
    except SofsError:
        raise
    except OSError as error:
        raise StoreFailed(f"the run directory or the keyring cannot be used: {error}") from error


def _up(
    options: UpOptions, root: str, cluster: bytes, run_dir: Path, credential: str, say: Say
) -> Up:
    dead = procfile.forget_dead(run_dir)
    record = rundir.read_run(run_dir)
    if record is not None:
        _check_same(record, root, cluster, options)
        if record.up and procfile.read_all(run_dir):
            return _mend(options, run_dir, record, credential, say)
        if record.up and dead:
            say("the last run ended without `sofs down`; starting again")
        rundir.remove_temp(record.temp)
    found = foreign.look(run_dir, options.address) if options.address else None
    record = _new_record(options, root, cluster, run_dir, record, found, credential, say)
    if found is None:
        rundir.make_token(run_dir)
    rundir.write_run(run_dir, record)
    try:
        if found is None:
            ray_cluster.make_storage(record)
        started = _start_missing(options, run_dir, record, say)
        _wait_serving(run_dir, record, credential, say)
    except BaseException:
        say("the start failed; ending what was started")
        _take_down(run_dir, record)
        raise
    return Up(run_dir, record, credential, started)


def _check_same(record: RunRecord, root: str, cluster: bytes, options: UpOptions) -> None:
    if record.cluster != cluster.hex():
        raise InvalidParameter(
            f"this run directory belongs to the cluster on {record.root}; use another --run-dir"
        )
    if not record.up:
        return
    if record.ending:
        raise InvalidParameter("the cluster is being ended; run `sofs down` until that is done")
    if bool(options.address) != record.foreign:
        where = f"in the Ray cluster at {record.ray_address}" if record.foreign else "by itself"
        raise InvalidParameter(f"the cluster is up {where}; to change that, run `sofs down` first")
    if options.nodes and options.nodes != record.nodes:
        raise InvalidParameter(
            f"the cluster is up with {record.nodes} nodes; to have {options.nodes}, run "
            "`sofs down` first"
        )
    if options.port and options.port != record.node_port:
        raise InvalidParameter(
            f"the cluster is up at port {record.node_port}; to change it, run `sofs down` first"
        )
    if options.dns_name and options.dns_name != record.dns_name:
        raise InvalidParameter(
            f"the cluster is up as {record.dns_name!r}; to change its name, run `sofs down` first"
        )
    if options.dns_ttl_s is not None and options.dns_ttl_s != record.dns_ttl_s:
        raise InvalidParameter(
            f"the cluster is up with a TTL of {record.dns_ttl_s} s; to change it, run `sofs down` "
            "first"
        )


def _new_record(
    options: UpOptions,
    root: str,
    cluster: bytes,
    run_dir: Path,
    last: RunRecord | None,
    found: foreign.Found | None,
    credential: str,
    say: Say,
) -> RunRecord:
    """Decide what a new run is: nobody else's leader may answer, and ports must be free."""
    base_epoch = asyncio.run(_judge_other_run(root, credential, options.take_over, say))
    nodes = options.nodes or (last.nodes if last is not None else 0)
    if found is not None:
        nodes = options.nodes or max(nodes, min(len(found.machines), SLOTS_MAX))
        say(f"Ray at {found.address} has {len(found.machines)} nodes for SOFS")
    nodes = nodes or NODES_DEFAULT
    hosts = [f"127.0.0.{10 + slot}" for slot in range(1, nodes + 1)]
    dns_hosts = dns_hosts_of(nodes)
    wanted = options.port
    if not wanted and last is not None:
        # Clients know the old addresses.
        bound = [*hosts, *dns_hosts]
        if all(ray_cluster.is_free(bound, last.node_port + i) for i in range(PORTS_COUNT)):
            wanted = last.node_port
        else:
            say(f"port {last.node_port} of the last run is taken by now: choosing another")
    port = ray_cluster.pick_ports([*hosts, *dns_hosts], PORTS_COUNT, wanted)
    ttl_s = last.dns_ttl_s if last is not None and last.dns_port else TTL_DEFAULT_S
    return RunRecord(
        root=root,
        cluster=cluster.hex(),
        run_id=secrets.token_hex(16),
        nodes=nodes,
        node_port=port,
        witness_port=port + 1,
        ray_port=ray_cluster.pick_ports(["0.0.0.0"], 1) if found is None else 0,
        temp=str(rundir.make_temp(run_dir)) if found is None else "",
        base_epoch=base_epoch,
        take_over=options.take_over,
        hosts=hosts,
        dns_hosts=dns_hosts,
        dns_port=port + 2,
        dns_name=options.dns_name or (last.dns_name if last is not None else "") or DNS_NAME,
        dns_ttl_s=ttl_s if options.dns_ttl_s is None else options.dns_ttl_s,
        foreign=found is not None,
        ray_address=found.address if found is not None else "",
    )


async def _judge_other_run(root: str, credential: str, take_over: bool, say: Say) -> int:
    """Return the epoch of the highest leader claim; OtherRun when its leader answers (R13)."""
    clock, blocking = SystemClock(), ThreadBlocking()
    transport = GrpcTransport(credential, clock)
    try:
        fenced = open_fenced(attach(root, probe=False), clock, SystemEntropy(), blocking)
        owner = await fenced.highest_claim(LEADER_ROLE)
        if owner is None:
            return 0
        if await answers(clock, transport, owner):
            other = f"run {owner.run_id.hex()[:8]}, whose leader answers at {owner.endpoint}"
            if not take_over:
                raise OtherRun(
                    f"{root} is served by {other}; end that with `sofs down` where it was started, "
                    "or take the cluster over with --take-over"
                )
            say(f"taking the cluster over from {other}")
        return owner.epoch
    finally:
        await transport.close()
        blocking.close()


def _mend(options: UpOptions, run_dir: Path, record: RunRecord, credential: str, say: Say) -> Up:
    """The run lives: start what is missing of it and keep what is there."""
    started = _start_missing(options, run_dir, record, say)
    _wait_serving(run_dir, record, credential, say if started else ignore)
    return Up(run_dir, record, credential, started)


def _start_missing(options: UpOptions, run_dir: Path, record: RunRecord, say: Say) -> list[str]:
    """Start the Ray nodes that do not run, and the leader; returns the names of the former."""
    alive = ray_cluster.ray_nodes(run_dir)
    leader = any(facts.name == "leader" for facts in procfile.read_all(run_dir))
    if record.foreign:
        if not leader:
            foreign.start_leader(run_dir, record, leader_config(run_dir, record))
        return [] if leader else [LEADER_ROLE]
    started: list[str] = []
    launch: subprocess.Popen[bytes] | None = None
    try:
        for number in range(record.nodes + 1):
            name = f"{RAY_NODE}-{number}" if number else HEAD
            if name not in alive:
                begin = time.monotonic()
                ray_cluster.start_node(
                    run_dir, record, number, die_with_parent=options.die_with_parent
                )
                rundir.write_run(run_dir, record)
                started.append(name)
                say(f"{name} is up ({time.monotonic() - begin:.1f} s)")
            if launch is None and not (leader and not started):
                # It registers the leader while further Ray nodes join.
                config = leader_config(run_dir, record)
                launch = ray_cluster.launch_leader(run_dir, record, asdict(config))
        if launch is not None:
            _await_launch(launch, run_dir)
    finally:
        if launch is not None and launch.poll() is None:
            launch.kill()
            launch.wait()
    return started


def leader_config(run_dir: Path, record: RunRecord) -> PartConfig:
    """What the leader is told."""
    return PartConfig(
        role=LEADER_ROLE,
        name=LEADER_ROLE,
        root=record.root,
        address="127.0.0.1:0",
        credential="",
        run_dir=str(run_dir),
        run_id=record.run_id,
        volume=SHARE,
        wanted_nodes=record.nodes,
        node_port=record.node_port,
        witness_port=record.witness_port,
        base_epoch=record.base_epoch,
        take_over=record.take_over,
        dns=record.dns,
        dns_name=record.dns_name,
        dns_addresses=record.dns_addresses,
        dns_ttl_s=record.dns_ttl_s,
        namespace=record.namespace,
        foreign=record.foreign,
    )


def _await_launch(launch: subprocess.Popen[bytes], run_dir: Path) -> None:
    log = run_dir / "log" / "launch.log"
    try:
        status = launch.wait(READY_S_MAX)
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"Ray did not take the leader within {READY_S_MAX:.0f} s; see {log}"
        ) from None
    if status != 0:
        words = " | ".join(log.read_text(errors="replace").strip().splitlines()[-2:])
        raise Unavailable(f"the leader could not be started; see {log}: {words}")


def dns_hosts_of(nodes: int) -> list[str]:
    """Addresses for the DNS parts: two, or one where there is one node."""
    return list(DNS_HOSTS[:nodes])


def part_names(record: RunRecord) -> list[str]:
    """The names of all parts of a cluster."""
    numbers = range(1, record.nodes + 1)
    slots = [f"{role}-{slot}" for slot in numbers for role in ("node", "witness")]
    dns = [dns_name(index) for index in range(len(record.dns_hosts))]
    return [LEADER_ROLE, "coordinator", "resume-key", *dns, *slots]


def _wait_serving(run_dir: Path, record: RunRecord, credential: str, say: Say) -> None:
    """Return when every part listens and the volume has an active authority."""
    names = part_names(record)
    asked = deadline = time.monotonic()
    deadline += READY_S_MAX
    failing: dict[str, float] = {}
    said: set[str] = set()
    while True:
        facts = {f.name: f for f in procfile.read_all(run_dir) if f.run == record.run_id}
        now = time.monotonic()
        for part in facts.values():
            if part.problem:
                if now - failing.setdefault(part.name, now) > PROBLEM_S_MAX:
                    raise _problem_of(part)
            else:
                failing.pop(part.name, None)
        leader = facts.get(LEADER_ROLE)
        if leader is not None and _listens(leader) and now > asked + LEADER_ASKED_S:
            asked = now
            [state] = asyncio.run(_states([leader], credential))
            away = drained_parts(record, state)
            names = [name for name in part_names(record) if name not in away]
        ready = [name for name in names if _listens(facts.get(name))]
        for name in ready:
            if name not in said:
                said.add(name)
                say(f"{name} listens at {facts[name].address}")
        if len(ready) == len(names) and _volume_is_served(facts, credential, failing):
            break
        if now > deadline:
            missing = [name for name in names if name not in ready] or ["an active coordinator"]
            raise Unavailable(
                f"not up within {READY_S_MAX:.0f} s: {', '.join(missing)} missing; see "
                f"{run_dir}/log"
            )
        time.sleep(POLL_S)
    for slot, address in enumerate(record.addresses, 1):
        bound = facts[f"node-{slot}"].address if f"node-{slot}" in names else address
        if bound != address:
            raise Unavailable(
                f"port {record.node_port} was taken at {address} while the cluster started (the "
                f"node listens at {bound}); run `sofs up` again"
            )


def drained_parts(record: RunRecord, leader: PartStateReply | str | None) -> list[str]:
    """The nodes and witnesses that are away because machines are drained, as the leader tells; in
    a Ray cluster of others, those for which there is no Ray node."""
    if not isinstance(leader, PartStateReply):
        return []
    facts = dict(fact.split("=", 1) for fact in leader.facts if "=" in fact)
    if not facts.get("drained") and not (record.foreign and facts.get("slots")):
        return []
    held = [slot.partition(":")[0] for slot in facts.get("slots", "").split(",")]
    away = [slot for slot in range(1, record.nodes + 1) if str(slot) not in held]
    return [f"{role}-{slot}" for slot in away for role in ("node", "witness")]


def _listens(facts: ProcFacts | None) -> bool:
    return facts is not None and bool(facts.address) and procfile.alive(facts)


def _problem_of(part: ProcFacts) -> SofsError:
    code, _, message = part.problem.partition(": ")
    return error_from_code(code, f"{part.name} cannot start: {message or part.problem}")


def _volume_is_served(
    facts: Mapping[str, ProcFacts], credential: str, failing: dict[str, float]
) -> bool:
    """Is one of the authorities active? ``failing``: since when parts have said that they cannot
    be; raises what one has said for PROBLEM_S_MAX."""
    asked = [facts[name] for name in ("coordinator", "resume-key") if name in facts]
    now = time.monotonic()
    for part, state in zip(asked, asyncio.run(_states(asked, credential)), strict=True):
        if not isinstance(state, PartStateReply):
            continue
        if state.state == "active":
            return True
        told = dict(fact.split("=", 1) for fact in state.facts if "=" in fact)
        problem = told.get("corrupt") or told.get("waits")
        key = f"{part.name} serves nothing"
        if not problem:
            failing.pop(key, None)
        elif now - failing.setdefault(key, now) > PROBLEM_S_MAX:
            raise _problem_of(replace(part, problem=problem))
    return False


# Down -------------------------------------------------------------------------------------------


def down(run_dir: Path, say: Say = ignore) -> int:
    """End the run in ``run_dir``; returns how many processes there were. Nothing running is no
    error. Raises Unavailable when a process does not end, or another command holds the run."""
    if not run_dir.is_dir():
        return 0
    with rundir.locked(run_dir):
        record = rundir.read_run(run_dir)
        foreign = [f for f in procfile.read_all(run_dir) if f.boot_id != procfile.boot_id()]
        if foreign:
            say(f"{len(foreign)} processes were of another boot of this machine: forgotten")
        if record is None:
            procfile.forget_dead(run_dir)
            return 0
        return _take_down(run_dir, record)


def _take_down(run_dir: Path, record: RunRecord) -> int:
    if record.foreign:
        ended = foreign.end(run_dir, record)
    else:
        ended = ray_cluster.end_all(run_dir, record.run_id)
        rundir.remove_temp(record.temp)
        with contextlib.suppress(FileNotFoundError):
            (run_dir / rundir.TOKEN_FILE).unlink()
    record.up = False
    rundir.write_run(run_dir, record)
    return ended


# Status -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PartReport:
    """One process of the cluster, for people. ``incarnation`` in hex. ``state``: what the part
    says, "up" for Ray's processes, "away" when it does not answer, "drained" when its machine is
    and no other took its place, "free" for a node of which there is no Ray node yet, "dead"."""

    name: str
    role: str
    address: str = ""
    pid: int = 0
    incarnation: str = ""
    state: str = ""
    facts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CorruptReport:
    """One damaged place. ``kind``: "page" (one page of a file), "lost" (the whole file: writes to
    it are lost), "store" (``object``, of the authority's own). ``offset`` and ``length`` in bytes;
    length 0: to the file's end. ``found``: seconds since 1970."""

    kind: str
    path: str
    offset: int
    length: int
    object: str
    log_id: int
    segment: int
    sequence: int
    found_by: str
    found: float


@dataclass(frozen=True, slots=True)
class Report:
    """``notes`` say what is wrong and what to do. ``serving``: can clients be served? ``corrupt``:
    what was found damaged, the first of ``corrupt_total`` places. ``dns``: the access point's name,
    where it is answered, and who is listed."""

    up: bool
    run_dir: str
    root: str
    run_id: str
    url: str
    serving: bool
    parts: list[PartReport]
    notes: list[str]
    corrupt: list[CorruptReport] = field(default_factory=list)
    corrupt_total: int = 0
    dns: str = ""
    dns_url: str = ""


def status(run_dir: Path, credential: str) -> Report:
    """Look at every recorded process and ask every part how it is. Ray is not asked."""
    record = rundir.read_run(run_dir)
    if record is None:
        return Report(False, str(run_dir), "", "", "", False, [], [])
    found = {f.name: f for f in procfile.read_all(run_dir) if f.run == record.run_id}
    names = [HEAD, *(f"{RAY_NODE}-{i}" for i in range(1, record.nodes + 1))]
    names = [] if record.foreign else names
    names += [name for name in part_names(record) if record.up or name in found]
    pairs = ("coordinator", "resume-key")  # Of further volumes.
    names += [n for n, facts in sorted(found.items()) if facts.role in pairs and n not in names]
    asked = [found[n] for n in names if n in found and found[n].address]
    asked = [facts for facts in asked if procfile.alive(facts)]
    answers, damage = asyncio.run(_states_and_damage(asked, credential))
    states = dict(zip([facts.name for facts in asked], answers, strict=True))
    rays = ray_cluster.ray_nodes(run_dir)
    seen = {n: f for n, f in found.items() if f.role not in (HEAD, RAY_NODE) or n in rays}
    reports = [_report(name, seen.get(name), states.get(name)) for name in names]
    removed = of_removed_volumes(states.get(LEADER_ROLE), names)
    reports = [r for r in reports if r.name not in removed or r.state != "dead"]
    away = drained_parts(record, states.get(LEADER_ROLE))
    word = FREE if record.foreign else DRAINED
    reports = [
        replace(r, state=word) if r.name in away and r.state == "dead" else r for r in reports
    ]
    if not record.up:
        reports = [report for report in reports if report.state != "dead"]
    serving = any(r.role == "node" and r.state == "serving" for r in reports) and any(
        r.state == "active" for r in reports
    )
    return Report(
        up=record.up,
        run_dir=str(run_dir),
        root=record.root,
        run_id=record.run_id,
        url=record.url,
        serving=serving,
        parts=reports,
        notes=[*_notes(record, reports), *_damage_notes(damage)],
        corrupt=[_damaged(place) for place in damage.places],
        corrupt_total=damage.total,
        dns=_dns_line(record, reports),
        dns_url=record.dns_url,
    )


def of_removed_volumes(leader: PartStateReply | str | None, names: Sequence[str]) -> list[str]:
    """Which of these parts are of volumes that are wanted no more, as the leader says."""
    if not isinstance(leader, PartStateReply):
        return []
    facts = dict(fact.split("=", 1) for fact in leader.facts if "=" in fact)
    if not facts.get("volumes"):
        return []
    wanted = facts["volumes"].split(",")
    return [
        name
        for name in names
        for role in ("coordinator-", "resume-key-")
        if name.startswith(role) and name.removeprefix(role) not in wanted
    ]


def _dns_line(record: RunRecord, reports: Sequence[PartReport]) -> str:
    """One line of how the access point is resolved; "" for a run without DNS parts."""
    if not record.dns_hosts:
        return ""
    there = [r for r in reports if r.role == DNS and r.state in ("serving", "learning")]
    where = f"{record.dns_name} at {' and '.join(record.dns_addresses)}"
    if not there:
        return f"{where}: not answered now"
    facts = [dict(fact.split("=", 1) for fact in part.facts if "=" in fact) for part in there]
    listed = [told.get("listed") or "nobody listed yet" for told in facts]
    if len(dict.fromkeys(listed)) == 1:
        return f"{where}: {listed[0]}"
    return f"{where}: " + "; ".join(
        f"{part.name} {text}" for part, text in zip(there, listed, strict=True)
    )


def dns_members(run_dir: Path, credential: str) -> dict[str, MemberList | str]:
    """What the access point's zone is made of, from each DNS part itself by its name; text for one
    that does not answer. Raises Unavailable when none does."""
    record = rundir.read_run(run_dir)
    names = [dns_name(index) for index in range(len(record.dns_hosts) if record is not None else 0)]

    async def ask(name: str, world: World) -> MemberList | str:
        facts = procfile.read(procfile.proc_folder(run_dir) / f"{name}.json")
        if facts is None or not _listens(facts):
            return "it does not run; `sofs status` says what does"
        try:
            return await member_list(world.clock, world.transport, facts.address)
        except SofsError as error:
            return str(error)

    async def ask_all() -> list[MemberList | str]:
        world = make_world(credential)
        try:
            return list(await asyncio.gather(*(ask(name, world) for name in names)))
        finally:
            await world.transport.close()

    found = dict(zip(names, asyncio.run(ask_all()), strict=True))
    if not any(isinstance(told, MemberList) for told in found.values()):
        reasons = "; ".join(f"{name}: {told}" for name, told in found.items())
        raise Unavailable(f"no DNS part tells who is listed: {reasons or 'there is none'}")
    return found


def _damaged(place: CorruptPlace) -> CorruptReport:
    whole = place.kind != CorruptKind.PAGE
    return CorruptReport(
        CorruptKind(place.kind).name.lower() if place.kind in _KINDS else str(place.kind),
        place.path,
        place.page * BLOCK_BYTES,
        0 if whole else place.pages * BLOCK_BYTES,
        place.object,
        place.log_id,
        place.segment,
        place.sequence,
        place.found_by,
        place.found_ns / 1e9,
    )


def _damage_notes(damage: CorruptList) -> list[str]:
    if not damage.total:
        return []
    return [
        f"{damage.total} damaged places ($corrupt): `sofs status --facts` lists them; write those "
        "ranges anew from a copy, or delete the files"
    ]


def _report(name: str, facts: ProcFacts | None, state: PartStateReply | str | None) -> PartReport:
    role = facts.role if facts is not None else name.rstrip("0123456789").rstrip("-")
    if facts is None or not procfile.alive(facts):
        return PartReport(name, role, facts.address if facts is not None else "", state="dead")
    if isinstance(state, PartStateReply):
        return PartReport(
            name,
            role,
            facts.address,
            facts.pid,
            state.incarnation.hex(),
            state.state,
            list(state.facts),
        )
    if isinstance(state, str):
        return PartReport(name, role, facts.address, facts.pid, "", "away", [state])
    if role in (HEAD, RAY_NODE):
        return PartReport(name, role, "", facts.pid, "", "up")
    problem = [facts.problem] if facts.problem else []
    return PartReport(name, role, "", facts.pid, "", "starting", problem)


def _notes(record: RunRecord, reports: Sequence[PartReport]) -> list[str]:
    if not record.up:
        return ["the cluster is down; `sofs up` starts it"]
    dead = {report.name for report in reports if report.state == "dead"}
    notes = []
    if HEAD in dead:
        notes.append(
            "the Ray head is dead: parts that run serve on, but none that dies is restarted; "
            "`sofs up` starts the head again"
        )
    nodes = sorted(name for name in dead if name.startswith(RAY_NODE))
    if nodes:
        notes.append(f"{', '.join(nodes)} dead; `sofs up` starts it again")
    parts = sorted(name for name in dead if not name.startswith("ray-"))
    if parts and HEAD not in dead:
        notes.append(f"{', '.join(parts)}: not there, or being restarted")
    for fact in (f for report in reports if report.name == LEADER_ROLE for f in report.facts):
        word, _, text = fact.partition("=")
        if word == ELSEWHERE:
            notes.append(f"Ray nodes on other machines are not used until there is TLS: {text}")
        elif word == "problem" and record.foreign:
            notes.append(
                f"the leader cannot do its work ({text}): parts run on; if Ray's head is dead, "
                "none that dies is restarted until it is back"
            )
    notes += [
        f"{report.name} may not serve: {fact.partition('=')[2]}"
        for report in reports
        for fact in report.facts
        if fact.startswith("root_refused=")
    ]
    if any(report.state == DRAINED for report in reports):
        notes.append(
            "machines are drained: `sofs node ls`; `sofs node resume` lets one serve again"
        )
    return notes


async def _states_and_damage(
    asked: Sequence[ProcFacts], credential: str
) -> tuple[list[PartStateReply | str], CorruptList]:
    """The states of parts, and what the volume's owner has of damage."""
    states = await _states(asked, credential)
    world = make_world(credential)
    damage = CorruptList()
    try:
        for facts, state in zip(asked, states, strict=True):
            if isinstance(state, PartStateReply) and state.state == "active":
                damage = await corrupt_list(world.clock, world.transport, facts.address)
    except SofsError:
        return states, damage  # It was superseded meanwhile; the next look asks the other.
    finally:
        await world.transport.close()
    return states, damage


async def _states(asked: Sequence[ProcFacts], credential: str) -> list[PartStateReply | str]:
    """Ask parts at once for their states; text for one that does not answer."""
    world = make_world(credential)

    async def ask(facts: ProcFacts) -> PartStateReply | str:
        try:
            return await part_state(world.clock, world.transport, facts.address)
        except SofsError as error:
            return str(error)

    try:
        return list(await asyncio.gather(*map(ask, asked)))
    finally:
        await world.transport.close()
