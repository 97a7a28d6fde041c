"""Handles whose client is away: the resume gate after a take-over, and the timers of disconnected
handles.

Theory. The rules are pure (``core/gate.py``, ``core/handles.py``); this is their clock. At a
take-over every node incarnation in the database registers again (RESUME_LOCAL) or is sealed, so
that no handle of a live node is taken for a lost one. Handles that are then disconnected wait for
their clients (RESUME_REMOTE) until all are claimed or the window ends; what nobody claimed is
released (RELEASE). Handles that disconnect later have timers of their own. All times run on this
owner's monotonic clock, start in full at each take-over, and count only while some node accepts
reclaims: they only lengthen.

Only disconnected handles are released, and a handle is disconnected only after its node drained it
or was sealed: the rules demand it again in the transaction that releases.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from sofs.core import events as e
from sofs.core import messages as m
from sofs.core.gate import Decision, Phase, ResumeGate
from sofs.core.handles import HandleTimers
from sofs.errors import Fenced, FileNotAvailable, OutcomeUnknown, SofsError
from sofs.services.authority.env import AuthorityEnv
from sofs.services.authority.service_nodes import Nodes
from sofs.services.authority.state import AuthorityState
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.authority")

TICK_MS: Final = 200
RELEASED_AT_ONCE_MAX: Final = 512  # Handles in one transaction.


class Resumption:
    """One life's gate and timers. ``release`` runs a transaction that releases disconnected
    handles; ``released`` tells who waits for locks."""

    def __init__(
        self,
        env: AuthorityEnv,
        state: AuthorityState,
        tasks: Tasks,
        release: Callable[[Sequence[int]], Awaitable[None]],
        epoch: int = 0,
    ) -> None:
        self._epoch = epoch
        self._told = Phase.LOADING  # The phase that was told last.
        self._loaded_ms = 0
        self._env = env
        self._state = state
        self._tasks = tasks
        self._release = release
        settings = env.settings
        self._gate = ResumeGate(window_ms=settings.gate_window_ms, blackout=settings.gate_blackout)
        self._timers = HandleTimers()
        self._timed: dict[int, None] = {}
        self._changed: asyncio.Future[None] | None = None
        self._nodes: Nodes | None = None

    @property
    def phase(self) -> str:
        return self._gate.phase.name

    @property
    def online(self) -> bool:
        return self._gate.phase is Phase.ONLINE

    def begin(self, nodes: Nodes) -> None:
        """The database is loaded: take stock and start waiting for nodes and clients."""
        self._nodes = nodes
        incarnations = self._state.live_nodes()
        self._gate.loaded(
            self._now(),
            self._state.bound_handles(),
            self._state.disconnected_inos(),
            incarnations,
        )
        self._loaded_ms = self._now()
        self._tell_phase()
        self._start_timers()
        for incarnation in incarnations:
            self._tasks.spawn(self._resume_node(nodes, incarnation), "resume-node")
        self._tasks.spawn(self._tick(nodes), "resume-tick")

    def _now(self) -> int:
        return self._env.clock.monotonic_ms()

    # Events ------------------------------------------------------------------------------------

    def registered(self, incarnation: bytes, connected: Sequence[int]) -> None:
        """A node reported its connected handles; those it omitted are disconnected by now."""
        self._start_timers()
        self._wake(self._gate.node_reported(self._now(), incarnation, connected))

    def orphaned(self, incarnation: bytes | None) -> None:
        """Handles were disconnected; with ``incarnation`` because that node was sealed."""
        self._start_timers()
        if incarnation is not None:
            self._wake(self._gate.node_sealed(self._now(), incarnation))

    def settled(self, handles: Sequence[int]) -> None:
        """Handles were reclaimed, closed or released."""
        for handle in handles:
            self._timers.cancel(handle)
            self._timed.pop(handle, None)
        self._wake(self._gate.settled(self._now(), handles))

    def _start_timers(self) -> None:
        now = self._now()
        for handle, timeout_ms in self._state.disconnected_handles():
            if handle not in self._timed:
                self._timed[handle] = None
                self._timers.start(now, handle, timeout_ms)

    def _tell_phase(self) -> None:
        """Tell the phase if it is another than before; one that passed at once is not told."""
        phase = self._gate.phase
        if phase is self._told:
            return
        self._told = phase
        emit, epoch = self._env.events.emit, self._epoch
        if phase is Phase.RESUME_LOCAL:
            emit(e.GATE_RESUME_LOCAL, epoch=epoch, nodes=len(self._gate.unreported()))
        elif phase is Phase.RESUME_REMOTE:
            emit(e.GATE_RESUME_REMOTE, epoch=epoch, handles=len(self._gate.unclaimed()))
        elif phase is Phase.RELEASE:
            emit(e.GATE_RELEASE, epoch=epoch, handles=len(self._gate.unclaimed()))
        else:
            emit(e.GATE_ONLINE, epoch=epoch, took_ms=self._now() - self._loaded_ms)

    def _wake(self, changed: bool) -> None:
        self._tell_phase()
        if changed and self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    # The question ------------------------------------------------------------------------------

    async def admit(self, body: m.Message) -> None:
        """Return when a create, open, rename or delete may be tried; FileNotAvailable while an
        absent client's handle keeps its file. A newer instance of that very application need not
        wait: it closes the older one's handles, and the rules fence the file for all others."""
        while not self.online:
            decision = self._gate.decide(self._state.touched(body))
            if decision is Decision.PROCEED:
                return
            if decision is Decision.REFUSE:
                if isinstance(body, m.Open) and self._state.takes_over(body):
                    return
                raise FileNotAvailable(
                    "a handle from before the take-over keeps the file", retry_after_ms=50
                )
            if self._changed is None or self._changed.done():
                self._changed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._changed)

    # Time --------------------------------------------------------------------------------------

    async def _tick(self, nodes: Nodes) -> None:
        last = self._now()
        while True:
            await self._env.clock.sleep_ms(TICK_MS)
            now = self._now()
            # A gap of our own (a frozen process) is no time that clients could have used.
            counted = min(now, last + 2 * TICK_MS)
            accepting = bool(nodes.links())
            for clock in (self._timers, self._gate):
                clock.accepting(counted, False)
                clock.accepting(now, accepting)
            last = now
            self._start_timers()
            self._wake(self._gate.tick(now))
            try:
                await self._release_due(now)
            except (Fenced, OutcomeUnknown):
                raise
            except SofsError as error:
                log.warning("handles whose time is over are kept for now: %s", error)

    async def _release_due(self, now_ms: int) -> None:
        due = self._timers.take_due(now_ms)
        for handle in due:
            self._timed.pop(handle, None)
        if self._gate.phase is Phase.RELEASE:
            due = sorted({*due, *self._gate.unclaimed()})
        for at in range(0, len(due), RELEASED_AT_ONCE_MAX):
            some = due[at : at + RELEASED_AT_ONCE_MAX]
            await self._release(some)
            self.settled(some)

    async def _resume_node(self, nodes: Nodes, incarnation: bytes) -> None:
        """Wait until a node of before the take-over registered, or was sealed.

        A damaged data log allows neither. The node's handles then stay bound to it, and the gate
        goes on without it: else everybody would wait for ever, while who touches such a file is to
        be told that its log is damaged.
        """
        if not await nodes.back_or_sealed(incarnation):
            bound = self._state.bound_handles()
            held = [handle for handle, _, holder in bound if holder == incarnation]
            self._wake(self._gate.node_reported(self._now(), incarnation, held))
