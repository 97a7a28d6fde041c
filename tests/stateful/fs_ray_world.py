"""The world of the state machine on a real local Ray cluster: real processes, SIGKILL, SIGSTOP.

One cluster serves many worlds, one after the other; each begins with an empty volume. The clients
live in this process, on the loop of the blocking SDK; one that is killed ends without a goodbye.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from fs_world import Held, Trouble

from sofs.client.aio import AsyncShare, connect
from sofs.client.background import loop_thread
from sofs.core.messages import Share
from sofs.errors import SofsError
from sofs.testing import RayCluster

T = TypeVar("T")
CALL_S_MAX: Final = 45.0
FREE_MS_MAX: Final = 20_000


class RayWorld:
    """See the module, and ``fs_world.World``."""

    def __init__(self, cluster: RayCluster) -> None:
        self.handle_timeout_ms = 10_000
        self.expiry_ms = 13_000
        self.fence_ms = 700
        self.cluster = cluster
        self.told: list[str] = []
        self._shares: dict[int, AsyncShare] = {}
        self._frozen = ""
        self._lock = threading.Lock()  # A fault strikes from a thread of its own.
        share = self._connected(1)
        loop_thread().run(share.rmtree("/"))
        loop_thread().run(share.close())

    def _connected(self, node: int) -> AsyncShare:
        async def opened() -> AsyncShare:
            return await connect(
                self.cluster.url_from(f"node-{node}"), credential=self.cluster.credential
            )

        return loop_thread().run(opened())

    def connect(self, number: int, node: int) -> None:
        self._shares[number] = self._connected(node)

    def call(
        self,
        number: int,
        work: Callable[[AsyncShare], Awaitable[T]],
        trouble: Trouble | None = None,
    ) -> T:
        share = self._shares[number]

        async def called() -> T:
            return await work(share)

        timer = None
        if trouble is not None:
            timer = threading.Timer(trouble.after_us / 1e6, self._strike, (trouble, share))
            timer.start()
        began = time.monotonic()
        try:
            return loop_thread().run(called())
        finally:
            if timer is not None:
                timer.join()
            took_s = time.monotonic() - began
            assert took_s < CALL_S_MAX, f"a call took {took_s:.1f} s"

    def kill_client(self, number: int) -> None:
        loop_thread().run(self._shares.pop(number).core.drop())

    def fault(self, number: int, trouble: Trouble) -> None:
        self._strike(trouble, self._shares[number])

    def _strike(self, trouble: Trouble, share: AsyncShare) -> None:
        self.told.append(f"{trouble}")
        if trouble.kind == "move":
            loop_thread().post(share.leave)
            return
        name = trouble.part
        if name == "serving":
            name = share.facts().node or "node-1"  # Between two sessions there is none.
        self.thaw()
        with self._lock:
            if trouble.kind == "kill":
                self.cluster.kill(name)
            else:
                self.cluster.freeze(name)
                self._frozen = name

    def thaw(self) -> None:
        with self._lock:
            frozen, self._frozen = self._frozen, ""
            if frozen:
                self.cluster.thaw(frozen)

    def now_ms(self) -> int:
        return int(time.monotonic() * 1000)

    def pass_ms(self, ms: int) -> None:
        time.sleep(ms / 1000)

    def check(self) -> None:
        return

    def held(self) -> Held | None:
        return None

    def left_over(self) -> list[str]:
        """Whoever can open every file alone, and lock all of it, shows that nobody holds it."""
        share = self._connected(2)
        found: list[str] = []

        async def claim() -> None:
            async for directory, _, files in share.walk("/"):
                for name in files:
                    path = f"{directory.rstrip('/')}/{name}"
                    try:
                        file = await share.open(
                            path, "rb", share=Share.NONE, deadline_ms=FREE_MS_MAX
                        )
                        await file.lock(0, 2**40, wait=False)
                        await file.close()
                    except SofsError as error:
                        found.append(f"{path}: {error}")

        loop_thread().run(claim())
        loop_thread().run(share.close())
        return found

    def close(self) -> None:
        self.thaw()
        for share in self._shares.values():
            loop_thread().run(share.core.drop())
        self._shares.clear()
