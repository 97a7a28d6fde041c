"""The composition root: one function that builds a part of real components from a plain
configuration.

Ray actors and plain processes call the same ``start_part``. Everything that a service needs of the
world is made here and handed in: clock, chance, threads, store, transport. Nothing is built at
import.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, cast

from sofs.actors.rundir import NAMESPACE
from sofs.core.members import Member
from sofs.core.share_table import ShareEntry, ShareTable
from sofs.core.witness import configured_interfaces, host_of
from sofs.core.zone import TTL_DEFAULT_S
from sofs.errors import BadNetworkName, FormatRefused, InvalidParameter, SofsError
from sofs.ports.events import NO_EVENTS, Events
from sofs.ports.log import FencedStore
from sofs.ports.platform import Platform
from sofs.ports.store import AppendStore, Store
from sofs.ports.trace import NO_RECORDER, Recorder
from sofs.rpc.address import split_address
from sofs.rpc.convert import WireCodec
from sofs.rpc.credential import CREDENTIAL_VARIABLE
from sofs.rpc.transport import GrpcTransport
from sofs.services.authority.env import (
    COORDINATOR,
    RESUME_KEY,
    VOLUME_ROLE,
    AuthorityEnv,
    AuthoritySettings,
)
from sofs.services.authority.schema import SCHEMA
from sofs.services.authority.service import AuthorityPart
from sofs.services.dns.part import DnsConfig, DnsPart
from sofs.services.leader.part import LeaderPart
from sofs.services.leader.reign import LeaderEnv, LeaderSettings
from sofs.services.leader.run import LEADER_ROLE, superseded
from sofs.services.leader.state import SCHEMA as LEADER_SCHEMA
from sofs.services.node.life import NodeConfig
from sofs.services.node.part import NodePart
from sofs.services.node.volumes import Volumes
from sofs.services.pair import PairProbe
from sofs.services.shares import ShareView
from sofs.services.tasks import Tasks
from sofs.services.witness.part import WitnessConfig, WitnessPart
from sofs.storage import (
    ApswState,
    Ballast,
    LocalAppendStore,
    LogOptions,
    ProtobufEntries,
    StoreRecovery,
    SystemClock,
    SystemEntropy,
    ThreadBlocking,
    attach,
    open_fenced,
    roots,
)
from sofs.storage.ballast import BALLAST_BYTES
from sofs.storage.names import below
from sofs.storage.probe import check_writable
from sofs.storage.shared_root import LocalSharedRoot
from sofs.telemetry import helper
from sofs.telemetry.event_ring import EVENTS_FOLDER, events_mib, open_events
from sofs.telemetry.ring import (
    ENDPOINT_VARIABLE,
    METRICS_VARIABLE,
    TRACE_FOLDER,
    open_ring,
    ring_mib,
)

log = logging.getLogger("sofs")

RUN_CHECK_MS: Final = 1_000
BALLAST_CHECK_MS: Final = 1_000
# The first segment of an authority's log that is opened on a full disk: what is closed, deleted,
# reclaimed and sealed goes there, until that made space.
FULL_AUTHORITY_BYTES: Final = 3 * BALLAST_BYTES // 4
# On slots who comes cold fetches an object for each group of entries since the last checkpoint:
# 10,000 of them took 36 s.
SLOT_CHECKPOINT_ENTRIES: Final = 1_000
LEADER_SEGMENT_BYTES: Final = 256 * 1024  # Its log takes a few records a day.


@dataclass(slots=True)
class PartConfig:
    """What a process must know to be a part; plain data, written as JSON. Addresses are
    ``host:port``; ``access_point`` lists those of all nodes, ``witnesses`` those of all
    witnesses: each watches the nodes of the other hosts. ``dns``: where the DNS parts take
    registrations, and ``dns_addresses``: where they answer for ``dns_name``, in the same order.
    ``machine``: what the leader calls the one that this part is for. ``namespace``: where Ray has
    the names of this cluster's actors; ``foreign``: Ray is not ours (``actors/foreign.py``)."""

    role: str
    name: str
    root: str
    address: str
    credential: str
    run_dir: str
    run_id: str = ""
    volume: str = "share"
    access_point: list[str] = field(default_factory=list)
    witnesses: list[str] = field(default_factory=list)
    die_with_parent: bool = False
    log_level: str = "INFO"
    hand_back_after_ms: int = 2_000
    dns: list[str] = field(default_factory=list)
    dns_name: str = ""
    dns_addresses: list[str] = field(default_factory=list)
    dns_ttl_s: int = TTL_DEFAULT_S
    machine: str = ""
    namespace: str = NAMESPACE
    foreign: bool = False
    # For the leader only; see ``LeaderSettings``.
    wanted_nodes: int = 0
    node_port: int = 0
    witness_port: int = 0
    base_epoch: int = 0
    take_over: bool = False


class RunningPart(Protocol):
    """A part that listens."""

    @property
    def address(self) -> str: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class World:
    """The real components that every part shares."""

    clock: SystemClock
    entropy: SystemEntropy
    blocking: ThreadBlocking
    transport: GrpcTransport
    recorder: Recorder = NO_RECORDER
    events: Events = NO_EVENTS


def make_world(
    credential: str, recorder: Recorder = NO_RECORDER, events: Events = NO_EVENTS
) -> World:
    clock = SystemClock()
    transport = GrpcTransport(credential, clock)
    return World(clock, SystemEntropy(), ThreadBlocking(), transport, recorder, events)


def part_events(config: PartConfig) -> Events:
    """Make the event ring of this process in its run directory."""
    folder = Path(config.run_dir) / EVENTS_FOLDER
    mib = events_mib(os.environ)
    return open_events(folder, config.name, config.role, mib, run=config.run_id)


def part_recorder(config: PartConfig) -> Recorder:
    """Make the trace ring of this process in its run directory, and keep the helpers that the
    environment asks for."""
    folder = Path(config.run_dir) / TRACE_FOLDER
    recorder = open_ring(folder, config.name, config.role, ring_mib(os.environ), run=config.run_id)
    if os.environ.get(ENDPOINT_VARIABLE):
        helper.keep("sofs.telemetry.export", folder, os.environ)
    if os.environ.get(METRICS_VARIABLE):
        secret = {CREDENTIAL_VARIABLE: config.credential}
        helper.keep("sofs.actors.metrics", folder, {**os.environ, **secret})
    return recorder


class _Ballasted:
    """A running part whose ballast is made again when its disk has space again."""

    def __init__(
        self,
        part: RunningPart,
        ballast: Ballast,
        world: World,
        die: Callable[[BaseException], None],
        others: Sequence[_Ballasted] = (),
    ) -> None:
        self._others = others  # End with this one.
        self._part = part
        self._ballast = ballast
        self._world = world
        self._tasks = Tasks("ballast", die)
        self._tasks.spawn(self._keep(), "keep")

    @property
    def address(self) -> str:
        return self._part.address

    async def _keep(self) -> None:
        while True:
            if not self._ballast.held:
                try:
                    await self._world.blocking.run("", self._ballast.keep)
                except SofsError as error:
                    log.warning("the ballast cannot be made: %s", error)
            await self._world.clock.sleep_ms(BALLAST_CHECK_MS)

    async def close(self) -> None:
        await self._tasks.close()
        for other in self._others:
            await other.close()
        await self._part.close()


async def start_part(
    config: PartConfig,
    on_fatal: Callable[[BaseException], None],
    *,
    world: World | None = None,
    platform: Platform | None = None,
    on_over: Callable[[str], None] = lambda reason: None,
) -> RunningPart:
    """Build and start the part of ``config.role``; it listens when this returns.

    Raises InvalidParameter for an unknown role, BackendRefused, FormatRefused or ReadOnlyBackend
    for a root that cannot be served. ``on_fatal`` gets what a restart of the process must mend.
    The leader needs a ``platform``, and calls ``on_over`` when its run has ended for good.
    """
    world = world or make_world(config.credential, part_recorder(config), part_events(config))
    if config.role == LEADER_ROLE and platform is not None:
        return await _start_leader(config, world, platform, on_fatal, on_over)
    if config.role in (COORDINATOR, RESUME_KEY):
        return await _start_authority(config, world, on_fatal)
    if config.role == "node":
        return await _start_node(config, world, on_fatal)
    if config.role == "witness":
        return await _start_witness(config, world, on_fatal)
    if config.role == "dns":
        return await _start_dns(config, world, on_fatal)
    raise InvalidParameter(f"there is no part {config.role!r}")


async def _start_node(
    config: PartConfig, world: World, on_fatal: Callable[[BaseException], None]
) -> RunningPart:
    shares = await open_shares(config, world)
    part: NodePart

    async def make_other(volume: str) -> NodePart:
        """The part of a further volume, behind the listener of the first one's."""
        its_config = replace(config, volume=volume, dns=[])
        other, its_ballast = await _make_node(its_config, world, shares, on_fatal)
        await other.start("", listener=_SharedListener(part.address))
        if its_ballast is not None:
            others.append(_Ballasted(other, its_ballast, world, on_fatal))
        return other

    others: list[_Ballasted] = []
    volumes = Volumes(config.volume, shares, make_other)
    part, ballast = await _make_node(config, world, shares, on_fatal, volumes)
    await part.start(config.address)
    return part if ballast is None else _Ballasted(part, ballast, world, on_fatal, others)


class _SharedListener:
    """A listener that belongs to another part of this process."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def close(self) -> None:
        return


async def _make_node(
    config: PartConfig,
    world: World,
    shares: ShareView,
    on_fatal: Callable[[BaseException], None],
    volumes: Volumes | None = None,
) -> tuple[NodePart, Ballast | None]:
    volume, fenced, ballast = await open_volume(config, world)
    part = NodePart(
        clock=world.clock,
        entropy=world.entropy,
        transport=world.transport,
        fenced=fenced,
        config=NodeConfig(
            name=config.name,
            share=config.volume,
            volume=volume,
            run_id=bytes.fromhex(config.run_id),
            addresses=lambda: config.access_point,
            interfaces=lambda: configured_interfaces(
                config.access_point, config.witnesses, config.address
            ),
            access_point=config.dns_name,
            dns=config.dns,
            machine=config.machine,
            shares=shares,
        ),
        on_exit=on_fatal,
        volumes=volumes,
        recorder=world.recorder,
        pair=pair_probe(config, world, volume, fenced.store, ballast),
        events=world.events,
    )
    return part, ballast


async def _start_witness(
    config: PartConfig, world: World, on_fatal: Callable[[BaseException], None]
) -> RunningPart:
    part = WitnessPart(
        clock=world.clock,
        entropy=world.entropy,
        transport=world.transport,
        config=WitnessConfig(
            name=config.name,
            address=config.address,
            nodes=config.access_point,
            witnesses=config.witnesses,
            share=config.volume,
            net_name=config.dns_name,
            shares=await open_shares(config, world),
        ),
        on_exit=on_fatal,
        recorder=world.recorder,
        events=world.events,
    )
    await part.start(config.address)
    return part


async def _start_dns(
    config: PartConfig, world: World, on_fatal: Callable[[BaseException], None]
) -> RunningPart:
    from sofs.dns_wire.server import SocketWire

    fenced, _ = await open_cluster_root(config, world, probe=False)

    async def leader_epoch() -> int:
        owner = await fenced.highest_claim(LEADER_ROLE)
        return 0 if owner is None else int(owner.epoch)

    part = DnsPart(
        clock=world.clock,
        entropy=world.entropy,
        transport=world.transport,
        wire=SocketWire(),
        recorder=world.recorder,
        config=DnsConfig(
            name=config.name,
            access_point=config.dns_name,
            address=config.dns_addresses[config.dns.index(config.address)],
            servers=config.dns_addresses,
            ttl_s=config.dns_ttl_s,
            # Without a run there is no leader, and the access point is as it was configured.
            members=None if config.run_id else configured_members(config.access_point),
        ),
        leader_epoch=leader_epoch,
        on_exit=on_fatal,
    )
    await part.start(config.address)
    return part


def configured_members(access_point: list[str]) -> list[Member]:
    """The nodes of an access point that no leader keeps: ``node-1`` and so on, in its order."""
    return [
        Member(f"node-{number}", "", (host_of(address),), split_address(address)[1])
        for number, address in enumerate(access_point, 1)
    ]


async def _start_authority(
    config: PartConfig, world: World, on_fatal: Callable[[BaseException], None]
) -> RunningPart:
    options = LogOptions(full_first_bytes=FULL_AUTHORITY_BYTES)
    volume, fenced, ballast = await open_volume(config, world, options)
    entries = ProtobufEntries()
    settings = AuthoritySettings(
        part=config.role,
        volume=volume,
        run_id=bytes.fromhex(config.run_id),
        hand_back_after_ms=config.hand_back_after_ms,
    )
    if fenced.store.kind == "slots":
        settings = replace(settings, checkpoint_every_entries=SLOT_CHECKPOINT_ENTRIES)
    part = AuthorityPart(
        AuthorityEnv(
            settings=settings,
            clock=world.clock,
            entropy=world.entropy,
            fenced=fenced,
            transport=world.transport,
            recovery=StoreRecovery(fenced, entries, VOLUME_ROLE),
            entries=entries,
            messages=WireCodec(),
            new_database=lambda: ApswState.create(SCHEMA),
            recorder=world.recorder,
            pair=pair_probe(config, world, volume, fenced.store, ballast),
            peers=lambda: config.access_point,
            events=world.events,
        ),
        on_fatal,
    )
    await part.start(config.address)
    return part if ballast is None else _Ballasted(part, ballast, world, on_fatal)


async def _start_leader(
    config: PartConfig,
    world: World,
    platform: Platform,
    on_fatal: Callable[[BaseException], None],
    on_over: Callable[[str], None],
) -> RunningPart:
    fenced, ballast = await open_cluster_root(config, world, probe=True)
    [volumes] = await world.blocking.run("", lambda: roots.list_volumes(fenced.store))
    names = [entry.name for entry in cast("list[roots.VolumeEntry]", volumes)]
    entries = ProtobufEntries()
    part = LeaderPart(
        LeaderEnv(
            settings=LeaderSettings(
                run_id=bytes.fromhex(config.run_id),
                base_epoch=config.base_epoch,
                take_over=config.take_over,
                wanted_nodes=config.wanted_nodes,
                volumes=tuple(sorted(names, key=lambda name: (name != config.volume, name))),
                node_port=config.node_port,
                witness_port=config.witness_port,
                access_point=config.dns_name,
                dns=tuple(config.dns),
            ),
            clock=world.clock,
            entropy=world.entropy,
            fenced=fenced,
            recovery=StoreRecovery(fenced, entries, LEADER_ROLE),
            entries=entries,
            new_database=lambda: ApswState.create(LEADER_SCHEMA),
            platform=platform,
            recorder=world.recorder,
        ),
        world.transport,
        name=config.name,
        on_fatal=on_fatal,
        on_over=on_over,
    )
    await part.start(config.address)
    return part if ballast is None else _Ballasted(part, ballast, world, on_fatal)


async def open_cluster_root(
    config: PartConfig, world: World, *, probe: bool
) -> tuple[FencedStore, Ballast | None]:
    """Attach the cluster's root; returns its claims and logs, and the ballast that they use. Raises
    CredentialRefused when the cluster is another's, and what ``attach`` raises."""

    def attach_root() -> Store:
        store = attach(config.root, probe=probe, ballast=config.name)
        cluster = roots.open_cluster(store)
        if cluster is None:
            raise FormatRefused(f"{config.root} is no cluster root; `sofs up` makes one")
        roots.check_credential(cluster, config.credential.encode())
        return store

    [attached] = await world.blocking.run("", attach_root)
    store = cast("Store", attached)
    ballast = ballast_of(store, config)
    n_bytes = LEADER_SEGMENT_BYTES
    options = LogOptions(first_bytes=n_bytes, segment_bytes=n_bytes, recorder=world.recorder)
    fenced = open_fenced(store, world.clock, world.entropy, world.blocking, options, ballast)
    return fenced, ballast


async def open_shares(config: PartConfig, world: World) -> ShareView:
    """What a part knows of the cluster's shares; raises what ``open_cluster_root`` raises."""
    fenced, _ = await open_cluster_root(config, world, probe=False)
    alone = ShareTable(0, 0, (ShareEntry(config.volume, config.volume),))
    # Who serves them tells of their changes.
    events = world.events if config.role == "node" else NO_EVENTS
    return ShareView(world.clock, fenced, alone, events)


class RunWatch:
    """Tells when another run has taken the root over (see ``services/leader/run.py``)."""

    def __init__(self, config: PartConfig, world: World) -> None:
        self._config = config
        self._world = world
        self._fenced: FencedStore | None = None

    async def over(self) -> str:
        """Return what happened, or "" while the root is this run's. Raises what the store says."""
        if self._fenced is None:
            self._fenced, _ = await open_cluster_root(self._config, self._world, probe=False)
        owner = await superseded(self._fenced, bytes.fromhex(self._config.run_id))
        return "" if owner is None else f"run {owner.run_id.hex()[:8]} took this cluster over"

    async def wait(self) -> str:
        """Wait until this run is over. While the store does not answer, nothing is over."""
        while True:
            try:
                reason = await self.over()
            except SofsError as error:
                log.warning("cannot tell whether this run is over: %s", error)
            else:
                if reason:
                    return reason
            await self._world.clock.sleep_ms(RUN_CHECK_MS)


async def open_volume(
    config: PartConfig, world: World, options: LogOptions | None = None
) -> tuple[bytes, FencedStore, Ballast | None]:
    """Attach the cluster's root and the volume's; returns the volume's uuid, its claims and logs,
    and the ballast that they use."""
    [attached] = await world.blocking.run("", lambda: _attach_volume(config))
    volume, store = cast("tuple[bytes, Store]", attached)
    ballast = ballast_of(store, config)
    options = replace(options or LogOptions(), recorder=world.recorder)
    fenced = open_fenced(store, world.clock, world.entropy, world.blocking, options, ballast)
    return volume, fenced, ballast


def pair_probe(
    config: PartConfig, world: World, volume: bytes, store: Store, ballast: Ballast | None
) -> PairProbe | None:
    """Only a folder may look different to two processes (R11)."""
    if not isinstance(store, LocalAppendStore):
        return None
    root = LocalSharedRoot(store, world.blocking, ballast, store.place())
    return PairProbe(world.clock, world.entropy, root, volume, config.name)


def ballast_of(store: Store, config: PartConfig) -> Ballast | None:
    """Only a disk can be full."""
    return Ballast(cast("AppendStore", store), config.name) if store.kind == "append" else None


def _attach_volume(config: PartConfig) -> tuple[bytes, Store]:
    cluster_store = attach(config.root, probe=False)  # It is only read.
    cluster = roots.open_cluster(cluster_store)
    if cluster is None:
        raise FormatRefused(f"{config.root} is no cluster root; `sofs up` makes one")
    roots.check_credential(cluster, config.credential.encode())
    for entry in roots.list_volumes(cluster_store):
        if entry.name == config.volume:
            store = attach(entry.url, cluster=cluster.cluster, ballast=config.name)
            found = roots.open_volume(store, cluster=cluster.cluster, name=entry.name)
            return found.volume, store
    raise BadNetworkName(f"the cluster has no volume {config.volume!r}")


def create_roots(root: str, credential: str, volume: str) -> bytes:
    """Make ``root`` a cluster's root with one volume in it, or check that it is; returns the
    cluster's uuid.

    Raises CredentialRefused for another cluster's root, BackendRefused, ReadOnlyBackend,
    DiskFull."""
    entropy = SystemEntropy()
    store = attach(root, probe=False)
    if roots.open_cluster(store) is None:
        store = attach(root)
    else:
        check_writable(store)  # Not more: its disk may be full, and that is the parts' matter.
    cluster = roots.create_cluster(store, credential=credential.encode(), entropy=entropy)
    known = {entry.name for entry in roots.list_volumes(store)}
    if volume not in known:
        url = below(root, f"volume-{volume}")
        made = roots.create_volume(
            attach(url), cluster=cluster.cluster, name=volume, entropy=entropy
        )
        roots.add_volume(store, roots.VolumeEntry(volume, made.volume, url))
    return cluster.cluster
