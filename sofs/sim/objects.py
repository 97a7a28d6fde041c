"""A simulated object store behind the slots driver's contract (R12).

``SimSlotStore`` is a slot driver like any other: ``storage.slots`` above it, one client of one
process below. What the service does is here: ``create`` (a PUT that only creates), GET, LIST,
DELETE. A request travels, takes effect at one moment, and its reply travels back; everything else
goes on meanwhile, since each request is made by a worker of its own (``baton``).

Fault model. A request may be lost; be refused before its effect (503); fail after its effect (500);
lose its reply, told as a timeout or a broken connection; be slow; or arrive *late*, long after its
client gave up. Requests on their way belong to the network: they land although their sender was
killed, frozen or lost its power. The whole service may stall, refuse everything for a while (a
storm), or be full.

What it promises, as ``ports.store`` demands: a create is atomic and exactly one wins; GET sees
every effect that came before it. A listing has everything that was created before it began and was
not deleted before it ended; what was deleted up to ``list_lag_us`` before may still be in it, and
what is created meanwhile may be.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sofs.errors import DiskFull, StoreFailed, StoreUnknown
from sofs.sim.traps import Traps
from sofs.sim.world import SimProcess, World
from sofs.storage.slots import SlotStore

T = TypeVar("T")

TIMEOUT_US: Final = 2_000_000  # Silence after which a client gives a request up.
READ_TRIES: Final = 3  # Reads change nothing, and drivers try them again.
LATE_US: Final = 6_000_000  # Mean delay of a request that arrives late, behind its timeout.
TOMBSTONES_MAX: Final = 20_000


class Refused(OSError):
    """503: not done, and will not be."""


class Full(Refused):
    """A quota: not done."""


class Failed(OSError):
    """500: may have been done."""


@dataclass(slots=True)
class StoreFaults:
    """Chances of what may happen to a request; see the module. ``full``: creates are refused."""

    lost: float = 0.0
    refused: float = 0.0
    failed_after: float = 0.0
    reply_lost: float = 0.0
    late: float = 0.0
    slow: float = 0.0
    full: bool = False


class SimObjects:
    """The service: keys and bytes."""

    def __init__(self, world: World, latency_us: float, list_lag_us: int) -> None:
        self.world = world
        self.traps = Traps()
        self.latency_us = latency_us
        self.list_lag_us = list_lag_us
        self.faults = StoreFaults()
        self.stalled_until_us = 0
        self.objects: dict[str, bytes] = {}
        self.draw: random.Random = world.draw("objects")
        self._deleted_us: dict[str, int] = {}
        # Deleted, and there again: no name is given twice, so a request came late. The next
        # take-over deletes it.
        self.back: dict[str, None] = {}

    # Effects --------------------------------------------------------------------------------

    def create(self, key: str, data: bytes) -> bool:
        """Create it; False when it exists."""
        if self.faults.full:
            raise Full("no room")
        if key in self.objects:
            return False
        self.objects[key] = data
        if self._deleted_us.pop(key, None) is not None:
            self.back[key] = None
        return True

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def get(self, key: str) -> bytes:
        found = self.objects.get(key)
        if found is None:
            raise FileNotFoundError(key)
        return found

    def delete(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            self.back.pop(key, None)
            if len(self._deleted_us) >= TOMBSTONES_MAX:
                self._deleted_us.clear()
            self._deleted_us[key] = self.world.loop.now_us

    def listing(self, folder: str) -> list[str]:
        """Keys below the folder, and some that were there a moment ago."""
        start = f"{folder}/"
        found = [key for key in self.objects if key.startswith(start)]
        if self.list_lag_us:
            since = self.world.loop.now_us - self.draw.random() * self.list_lag_us
            found += [
                key for key, at in self._deleted_us.items() if at > since and key.startswith(start)
            ]
        return sorted(found)

    # The device, as the hand that damages it sees it ------------------------------------------

    def place(self, key: str) -> str | None:
        """What identifies the object: names are never given to others."""
        return key if key in self.objects else None

    def device(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def damage(self, key: str, offset: int, data: bytes) -> str | None:
        """Bytes of an object are others from now on."""
        old = self.objects.get(key)
        if old is None:
            return None
        self.objects[key] = old[:offset] + data + old[offset + len(data) :]
        return key

    def names(self, folder: str) -> list[str]:
        """Keys of the objects in a folder, sorted."""
        start = f"{folder}/"
        return sorted(
            key for key in self.objects if key.startswith(start) and "/" not in key[len(start) :]
        )

    def folders(self, folder: str) -> list[str]:
        """Paths of the folders in a folder, sorted."""
        start = f"{folder}/"
        found = {
            start + key[len(start) :].partition("/")[0]: None
            for key in self.objects
            if key.startswith(start) and "/" in key[len(start) :]
        }
        return sorted(found)

    # Requests -------------------------------------------------------------------------------

    def request(
        self, process: SimProcess, call: str, path: str, effect: Callable[[], T], *, changes: bool
    ) -> T:
        """One request of a process, made on a worker of its own. Raises what the service or the
        network answers: Refused, Failed, TimeoutError, ConnectionResetError."""
        self.traps(process, call, path, False)
        process.system_call()
        if self.world.working is None:
            return effect()  # From the loop's own thread: nobody waits there.
        loop = self.world.loop
        fate = self._fate(changes)
        there, back = self._latency_us(fate), self._latency_us("")
        outcome: list[T] = []
        errors: list[OSError] = []

        def land() -> None:
            try:
                if fate == "refused":
                    raise Refused("slow down")
                outcome.append(effect())
                self.traps(process, call, path, True)
                if fate == "failed":
                    raise Failed("internal error")
            except OSError as error:
                errors.append(error)

        if fate != "lost":
            context = self.world.context
            loop.call_at((loop.now_us + there) / 1e6, land, context=context)
        silent = fate in ("lost", "late") or (fate == "silent") or there + back > TIMEOUT_US
        process.wait(TIMEOUT_US if silent else there + back)
        process.system_call(after=True)
        if silent:
            raise TimeoutError("no reply")
        if fate == "reset":
            raise ConnectionResetError("the connection ended")
        if errors:
            raise errors[0]
        return outcome[0]

    def _fate(self, changes: bool) -> str:
        faults, draw = self.faults, self.draw.random
        if faults.lost and draw() < faults.lost:
            return "lost"
        if faults.refused and draw() < faults.refused:
            return "refused"
        if faults.reply_lost and draw() < faults.reply_lost:
            return "silent" if draw() < 0.5 else "reset"
        if faults.slow and draw() < faults.slow:
            return "slow"
        if changes and faults.late and draw() < faults.late:
            return "late"
        if changes and faults.failed_after and draw() < faults.failed_after:
            return "failed"
        return ""

    def _latency_us(self, fate: str) -> int:
        delay = self.latency_us * 0.3 + self.draw.expovariate(1 / (self.latency_us * 0.7))
        if fate == "slow":
            delay += self.draw.random() * self.draw.choice((100_000, 1_000_000, TIMEOUT_US))
        elif fate == "late":
            delay += TIMEOUT_US + self.draw.expovariate(1 / LATE_US)
        stalled = self.stalled_until_us - self.world.loop.now_us
        return 1 + int(max(delay, stalled + delay))


class _Client:
    """The part of an fsspec file system that ``SlotStore`` uses, for one process."""

    def __init__(self, objects: SimObjects, process: SimProcess) -> None:
        self._objects = objects
        self._process = process

    def create(self, path: str, data: bytes) -> bool:
        return self._objects.request(
            self._process, "create", path, lambda: self._objects.create(path, data), changes=True
        )

    def cat_file(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        return self._again("get", path, lambda: self._objects.get(path)[start:end])

    def find(self, folder: str) -> list[str]:
        return self._again("list", f"{folder}/", lambda: self._objects.listing(folder))

    def rm_file(self, path: str) -> None:
        self._objects.request(
            self._process, "delete", path, lambda: self._objects.delete(path), changes=True
        )

    def pipe_file(self, path: str, data: bytes) -> None:
        self._objects.request(
            self._process, "put", path, lambda: self._objects.put(path, data), changes=True
        )

    def invalidate_cache(self) -> None:
        """It has none."""

    def _strip_protocol(self, path: str) -> str:
        return path

    def _again(self, call: str, path: str, effect: Callable[[], T]) -> T:
        for _ in range(READ_TRIES - 1):
            try:
                return self._objects.request(self._process, call, path, effect, changes=False)
            except FileNotFoundError:
                raise
            except OSError:
                continue
        return self._objects.request(self._process, call, path, effect, changes=False)


class SimSlotStore(SlotStore):
    """The slot driver of one process; its objects lie below ``root``."""

    def __init__(self, objects: SimObjects, process: SimProcess, root: str) -> None:
        client: Any = _Client(objects, process)
        super().__init__(client, root, f"sim://{root}")

    def _create(self, path: str, data: bytes) -> bool:
        try:
            return bool(self._fs.create(path, data))
        except Full as error:
            raise DiskFull(f"create {path}: {error}; free space, then repeat the call") from error
        except Refused as error:
            raise StoreFailed(f"create {path}: {error}") from error
        except OSError as error:
            raise StoreUnknown(f"create {path}: {error}; whether it happened is open") from error
