"""A cluster with clients, as a state machine drives it: one call at a time, faults in between.

Theory. The machine and its model (``fs_machine``, ``fs_model``) know nothing of how a cluster runs.
They need what ``World`` says: clients by number, a call that is run to its end, a fault, time. Two
worlds provide it: ``SimWorld`` here, on the simulator in virtual time, and ``RayWorld``
(``fs_ray_world``) on a real local Ray cluster. Both hand the same ``AsyncShare`` to the same code.

A call may have a ``Trouble`` with it: a fault that strikes when the call has been under way for
so long. Then the call has to end as if there had been none: that is the promise of the product.

``SimWorld`` is deterministic: the same calls give the same run, which is what Hypothesis needs to
shrink a failure and to run it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, TypeVar

from sofs.client.aio import AsyncShare, connect
from sofs.services.authority.env import COORDINATOR
from sofs.services.authority.service import AuthorityPart
from sofs.sim.cluster import Cluster, Supervised
from sofs.sim.loop import SimLoop
from sofs.sim.network import SimTransport
from sofs.sim.plan import Plan
from sofs.sim.world import SimProcess
from sofs.sim.world import World as SimulatedWorld

T = TypeVar("T")

NODES: Final = 3
AUTHORITIES: Final = ("coordinator", "resume-key")
CALL_MS_MAX: Final = 9_000  # Virtual: less than an absent client's handle lasts.
START_MS_MAX: Final = 30_000
GARBAGE_ROUNDS_MAX: Final = 100


@dataclass(frozen=True)
class Trouble:
    """A fault to strike ``after_us`` of a call: "kill" or "freeze" of a part, by its name, or
    "move", of the calling client to another node. ``part`` may be "serving": the node that the
    client uses."""

    kind: str
    part: str
    after_us: int = 0


Held = tuple[list[int], list[tuple[int, int, int, bool]]]


class World(Protocol):
    """See the module. Times are milliseconds of the world's own clock."""

    handle_timeout_ms: int
    """To be asked for when a file is opened: an absent client's handle expires within the life of
    an example, but not while the machine looks on unless it wants that."""
    expiry_ms: int
    """After so long without any fault an absent client's handles have expired."""
    fence_ms: int
    """A deadline that is long enough to be refused by a fence and short enough to try it often."""

    def connect(self, number: int, node: int) -> None:
        """Begin a life of client ``number``, at node ``node`` (from 1) if that is up."""

    def call(
        self,
        number: int,
        work: Callable[[AsyncShare], Awaitable[T]],
        trouble: Trouble | None = None,
    ) -> T:
        """Run one operation of a client to its end; returns or raises what it does."""

    def kill_client(self, number: int) -> None:
        """End a client without a goodbye."""

    def fault(self, number: int, trouble: Trouble) -> None:
        """Strike now; "serving" and "move" are of client ``number``. At most one part is frozen
        at a time: another fault thaws it first."""

    def thaw(self) -> None:
        """Let the frozen part, if any, go on."""

    def now_ms(self) -> int: ...

    def pass_ms(self, ms: int) -> None:
        """Let time pass while nobody does anything."""

    def check(self) -> None:
        """Raise AssertionError for what the world itself saw go wrong."""

    def held(self) -> Held | None:
        """What the volume's authority has in its tables now, if it can be looked at: the files of
        all handles, and all locks, each in order."""

    def left_over(self) -> list[str]:
        """What the servers still hold: handles, locks, files that wait for their last close.
        Called when every client has closed everything; waits until it is so, for a while."""

    def close(self) -> None:
        """End everything."""


@dataclass
class _Client:
    process: SimProcess
    share: AsyncShare


class SimWorld:
    """See the module."""

    GATE_MS: ClassVar[int] = 10_000

    def __init__(self, seed: int = 0, plan: Plan | None = None) -> None:
        self.handle_timeout_ms = 10_000
        self.expiry_ms = 2 * self.handle_timeout_ms + 5_000  # A take-over starts timers anew.
        self.fence_ms = 400
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(_quiet())
        plan = plan or Plan(
            nodes=NODES,
            gate_window_ms=self.GATE_MS,
            checkpoint_entries=40,
            checkpoint_bytes=64 * 1024,
            first_bytes=64 * 1024,
            segment_bytes=64 * 1024,
        )
        self.loop = SimLoop(seed, keep_trace=False)
        self.world = SimulatedWorld(self.loop, seed)
        self.cluster = Cluster(self.world, plan)
        self._clients: dict[int, _Client] = {}
        self._lives = 0
        self._frozen: SimProcess | None = None
        self._run(self._start())

    # The loop ---------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` as nobody's, and everything else meanwhile, until it has ended."""
        return self.loop.run_until_complete(work)

    async def _start(self) -> None:
        self.cluster.start()
        await self._until("the coordinator serves", self._coordinator_serves)

    def _coordinator_serves(self) -> bool:
        """Not the resume-key, which would hand the volume back soon."""
        active = self.cluster.acting()
        return active is not None and active.env.settings.part == COORDINATOR

    async def _until(
        self, what: str, condition: Callable[[], bool], limit_ms: int = START_MS_MAX
    ) -> None:
        end_us = self.loop.now_us + limit_ms * 1000
        while not condition():
            self.check()
            assert self.loop.now_us < end_us, f"not within {limit_ms} ms: {what}"
            await asyncio.sleep(0.005)

    # Clients ----------------------------------------------------------------------------------

    def connect(self, number: int, node: int) -> None:
        self._lives += 1
        process = self.cluster.client(f"client-{number}.{self._lives}")
        first = self.cluster.access_point[node - 1]
        rest = [a for a in self.cluster.access_point if a != first]

        async def opened() -> AsyncShare:
            return await connect(
                f"sofs://{','.join([first, *rest])}/share",
                credential="simulated",
                transport=SimTransport(self.cluster.network, process),
                clock=process.clock,
                entropy=process.entropy,
                witness=False,
                connect_timeout_ms=60_000,
            )

        self._clients[number] = _Client(process, self._in(process, opened()))

    def call(
        self,
        number: int,
        work: Callable[[AsyncShare], Awaitable[T]],
        trouble: Trouble | None = None,
    ) -> T:
        client = self._clients[number]

        async def called() -> T:
            return await work(client.share)

        if trouble is not None:
            self.loop.call_at(
                (self.loop.now_us + trouble.after_us) / 1e6,
                self._strike,
                trouble,
                client,
                context=self.world.context,
            )
        return self._in(client.process, called())

    def _in(self, process: SimProcess, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in a client's process."""

        async def waited() -> T:
            task = process.spawn(work)
            await asyncio.wait([task], timeout=CALL_MS_MAX / 1000)
            assert task.done(), f"{process.name}: no answer within {CALL_MS_MAX} ms"
            return task.result()  # type: ignore[no-any-return]

        try:
            return self._run(waited())
        finally:
            self.check()

    def kill_client(self, number: int) -> None:
        self._clients.pop(number).process.crash("killed")

    # Faults -----------------------------------------------------------------------------------

    def fault(self, number: int, trouble: Trouble) -> None:
        self._strike(trouble, self._clients[number])

    def _strike(self, trouble: Trouble, client: _Client) -> None:
        if trouble.kind == "move":
            self.loop.call_soon(client.share.leave, context=client.process.context)
            return
        self.thaw()
        part = self._part(trouble.part, client)
        process = part.process
        if process is None:
            return  # It is down already.
        if trouble.kind == "kill":
            process.crash("killed")
        else:
            process.freeze()
            self._frozen = process

    def _part(self, name: str, client: _Client) -> Supervised:
        if name == "serving":
            name = client.share.facts().node or "node-1"  # Between two sessions there is none.
        return next(part for part in self.cluster.parts if part.name == name)

    def thaw(self) -> None:
        if self._frozen is not None:
            self._frozen.thaw()
            self._frozen = None

    # Time and state ---------------------------------------------------------------------------

    def now_ms(self) -> int:
        return self.loop.now_us // 1000

    def pass_ms(self, ms: int) -> None:
        self._run(asyncio.sleep(ms / 1000))
        self.check()

    def check(self) -> None:
        assert not self.world.failures, "\n".join(self.world.failures)

    def held(self) -> Held | None:
        serving = [part for part in self.cluster.running() if _serves(part)]
        if len(serving) != 1:
            return None  # One of them is superseded and does not know it yet.
        active = serving[0].part.active
        active.state.check()
        locks = active.state._all("SELECT ino,first,length,exclusive FROM lock")
        return (
            [row[0] for row in active.state._all("SELECT ino FROM handle ORDER BY ino")],
            sorted((ino, int(at), int(n), bool(exclusive)) for ino, at, n, exclusive in locks),
        )

    def left_over(self) -> list[str]:
        self._run(self._until("the volume is served", lambda: self.cluster.acting() is not None))
        state = self.cluster.acting().state
        return [
            f"{what}: {rows}"
            for what, sql in LEFT_OVER.items()
            if (rows := state._all(sql))
        ]  # fmt: skip

    def close(self) -> None:
        self.loop.over = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # What they begin as they end.
            for task in asyncio.all_tasks(self.loop):  # A failure may keep them alive for long.
                coroutine: Any = task.get_coro()
                with contextlib.suppress(BaseException):
                    coroutine.close()
        self.loop.close()
        self._clients.clear()
        self._frozen = None
        del self.loop, self.world, self.cluster  # Whoever keeps this object keeps no cluster.
        self._quiet.close()


def _serves(part: Supervised) -> bool:
    return isinstance(part.part, AuthorityPart) and part.part.active is not None


LEFT_OVER: Final = {
    "handles": "SELECT handle,ino,client FROM handle LIMIT 5",
    "locks": "SELECT handle,ino FROM lock LIMIT 5",
    "files that wait for their last close": "SELECT ino,name FROM inode WHERE pending LIMIT 5",
}


@contextlib.contextmanager
def _quiet() -> Any:
    """While a world lives nothing of it is collected, since that runs code; behind it, what its
    dead processes leave is silent. What was there before the first world is never looked at
    again: it is large, and would cost more time than the world itself."""
    log = logging.getLogger("sofs")
    before = log.level, log.propagate, list(log.handlers)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    log.setLevel(logging.CRITICAL + 1)
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # Coroutines that nobody runs any more.
            for _ in range(GARBAGE_ROUNDS_MAX):  # What is finalized leaves garbage in its turn.
                if not gc.collect():
                    break
        gc.enable()
        sys.unraisablehook = hook
        log.setLevel(before[0])
        log.propagate, log.handlers = before[1], before[2]
