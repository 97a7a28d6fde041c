"""How take-over and recovery grow with the number of files, and how far a follower lags.

Coordinator and resume-key run on one event loop over the real store; the network is in-process, so
that the figures are those of the authority alone. Files are entered through the same transactions
as a client's.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sofs.core import messages as m
from sofs.ids import Epoch, Incarnation
from sofs.ports.log import Claim
from sofs.rpc.convert import WireCodec
from sofs.services.authority.env import (
    COORDINATOR,
    RESUME_KEY,
    AuthorityEnv,
    AuthoritySettings,
    node_role,
)
from sofs.services.authority.schema import SCHEMA
from sofs.services.authority.service import AuthorityPart
from sofs.services.authority.service_active import ActiveAuthority
from sofs.sim.local_transport import LocalHub
from sofs.storage import (
    ApswState,
    ProtobufEntries,
    StoreRecovery,
    SystemClock,
    SystemEntropy,
    ThreadBlocking,
    attach,
    open_fenced,
)

FILES_A_TRANSACTION = 16
LAG_OPERATIONS_A_SECOND = 1000


@dataclass
class Scale:
    files: int
    take_over_ms: float  # From the owner's end to serving, by a follower in step.
    recovery_ms: float  # From nothing in memory to serving: checkpoint and log from the store.
    lag_max: int  # Entries behind at LAG_OPERATIONS_A_SECOND.


class Pair:
    """Coordinator and resume-key of one volume."""

    def __init__(self, folder: Path) -> None:
        self.hub = LocalHub()
        self.clock = SystemClock()
        self.blocking = ThreadBlocking()
        store = attach(str(folder))
        self.entropy = SystemEntropy()
        self.fenced = open_fenced(store, self.clock, self.entropy, self.blocking)

    async def start(self, part: str) -> AuthorityPart:
        entries = ProtobufEntries()
        made = AuthorityPart(
            AuthorityEnv(
                settings=AuthoritySettings(part=part, volume=bytes(16), hand_back_after_ms=600_000),
                clock=self.clock,
                entropy=SystemEntropy(),
                fenced=self.fenced,
                transport=self.hub.transport(),
                recovery=StoreRecovery(self.fenced, entries, "volume"),
                entries=entries,
                messages=WireCodec(),
                new_database=lambda: ApswState.create(SCHEMA),
            ),
            _reraise,
        )
        await made.start(f"{part}:0")
        return made

    async def kill(self, part: AuthorityPart) -> None:
        self.hub.cut(part.address)
        await part.close()


def _reraise(error: BaseException) -> None:
    raise error


async def _until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - the parts tell nobody; a bench may look.
        await asyncio.sleep(0.001)


async def _register(pair: Pair, active: ActiveAuthority) -> bytes:
    """Register a node that only lends its name: it has a claim and an empty data log."""
    incarnation, nonce = Incarnation(pair.entropy.token(16)), pair.entropy.token(16)
    claim = Claim(node_role(incarnation), Epoch(1), incarnation, nonce, "gone:1")
    await pair.fenced.try_claim(claim)
    await (await pair.fenced.open_log(claim, first_sequence=1)).close()
    with active.group.transaction():
        active.state.register_node(m.RegisterNode("bench", incarnation, "gone:1", nonce))
    await active.group.settled()
    return incarnation


async def _fill(active: ActiveAuthority, node: bytes, files: int) -> None:
    """Make ``files`` files in folders of a thousand."""
    caller = m.Caller(client=b"b" * 16, principal="bench")
    made = 0
    while made < files:
        with active.group.transaction():
            for _ in range(FILES_A_TRANSACTION):
                if made % 1000 == 0:
                    active.state.mkdir(m.Mkdir(caller, f"/d{made // 1000}"), 1)
                path = f"/d{made // 1000}/file-{made}"
                request = m.WriteFile(caller, path, int(m.Disposition.CREATE))
                active.state.write_file(request, node, 1)
                made += 1
        await active.group.settled()


async def measure(files: int) -> Scale:
    """Measure one size."""
    with tempfile.TemporaryDirectory(prefix="sofs-scale-") as folder:
        pair = Pair(Path(folder))
        coordinator = await pair.start(COORDINATOR)
        await _until(lambda: coordinator.active)
        resume_key = await pair.start(RESUME_KEY)
        await _until(lambda: resume_key.follower_in_step)
        assert coordinator.active is not None
        node = await _register(pair, coordinator.active)
        await _fill(coordinator.active, node, files)
        lag_max = await _lag(coordinator.active, node)
        await _until(lambda: coordinator.active is None or coordinator.active.feed.lag() == 0)
        begin = time.perf_counter()
        await pair.kill(coordinator)
        await _until(lambda: resume_key.active)
        take_over_ms = (time.perf_counter() - begin) * 1e3
        await pair.kill(resume_key)
        # A coordinator that comes cold waits two limits before it claims: not part of the figure.
        begin = time.perf_counter()
        again = await pair.start(COORDINATOR)
        await _until(lambda: again.active)
        recovery_ms = (time.perf_counter() - begin) * 1e3 - again.cold_wait_ms
        await pair.kill(again)
        pair.blocking.close()
        return Scale(files, take_over_ms, recovery_ms, lag_max)


async def _lag(active: ActiveAuthority, node: bytes) -> int:
    """The follower's largest lag while a thousand small transactions a second run."""
    worst = 0
    caller = m.Caller(client=b"b" * 16, principal="bench")
    for i in range(LAG_OPERATIONS_A_SECOND):
        due = time.perf_counter() + 1 / LAG_OPERATIONS_A_SECOND
        with active.group.transaction():
            active.state.set_info(m.SetInfo(caller, "/d0", modified_ns=i + 1), node, 1)
        await active.group.settled()
        worst = max(worst, active.feed.lag() or 0)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    return worst
