"""The active side of following: entries that are durable and checked go to every follower, in
order.

Nobody waits for a follower, so entries are pushed together, PUSH_MS after the first of them: a
frame an entry would cost the machine half as much again as the entry itself. A follower that takes
over meanwhile finds them in the log. What is kept for late ones is bounded; a follower that wants
more reads checkpoint and log from the store and comes back.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from sofs.core.messages import Entries, Follow, Followed, FollowReply, LogEntry
from sofs.errors import Unavailable
from sofs.ports.runtime import Clock
from sofs.services.channel import Channel
from sofs.services.tasks import Tasks

ENTRIES_BYTES_MAX: Final = 1024 * 1024  # In one Entries message, unless one entry is larger.
PUSHED_ENTRY_BYTES_MAX: Final = 3 * 1024 * 1024  # A larger one is read from the store.
FOLLOWER_BEHIND_MAX: Final = 20_000  # Entries pushed and not confirmed; beyond it the stream ends.
FOLLOWERS_MAX: Final = 4
PUSH_MS: Final = 10


class FollowerFeed:
    """Pushes the log of ``epoch`` to its followers."""

    def __init__(
        self, epoch: int, first_sequence: int, backlog_bytes_max: int, clock: Clock, tasks: Tasks
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._pushing = False  # A push is due.
        self._epoch = epoch
        self._backlog: deque[LogEntry] = deque()
        self._backlog_bytes = 0
        self._backlog_bytes_max = backlog_bytes_max
        # Sequence of the oldest entry that is or would be in the backlog.
        self._start = first_sequence
        self.last_sequence = first_sequence - 1
        self.logged_bytes = 0
        self.followers: dict[bytes, Follower] = {}

    def logged(self, sequence: int, payload: bytes) -> None:
        """A durable, checked entry; called in order of sequences."""
        self._backlog.append(LogEntry(sequence, payload))
        self._backlog_bytes += len(payload)
        self.logged_bytes += len(payload)
        self.last_sequence = sequence
        if self.followers and not self._pushing:
            self._pushing = True
            self._tasks.spawn(self._push_soon(), "push")
        while self._backlog_bytes > self._backlog_bytes_max:
            dropped = self._backlog.popleft()
            self._backlog_bytes -= len(dropped.payload)
            self._start = dropped.sequence + 1

    async def _push_soon(self) -> None:
        await self._clock.sleep_ms(PUSH_MS)
        self._pushing = False
        for follower in list(self.followers.values()):
            if not follower.channel.alive:
                self.followers.pop(follower.incarnation, None)
            elif self.last_sequence - follower.sequence > FOLLOWER_BEHIND_MAX:
                follower.channel.end(Unavailable("the follower is too far behind"))
            else:
                self._push(follower)

    def _push(self, follower: Follower) -> None:
        """Send a follower what it was not sent yet; a gap ends its stream: it reads the store."""
        if follower.pushed + 1 < self._start:
            follower.channel.end(Unavailable("the follower is too far behind"))
            return
        batch: list[LogEntry] = []
        n_bytes = 0
        for entry in self._unsent(follower.pushed):
            if len(entry.payload) > PUSHED_ENTRY_BYTES_MAX:
                follower.channel.end(Unavailable("an entry is too large to push: read the store"))
                return
            if batch and n_bytes + len(entry.payload) > ENTRIES_BYTES_MAX:
                follower.channel.notify(Entries(self._epoch, batch))
                batch, n_bytes = [], 0
            batch.append(entry)
            n_bytes += len(entry.payload)
        if batch:
            follower.channel.notify(Entries(self._epoch, batch))
        follower.pushed = self.last_sequence

    def _unsent(self, above: int) -> list[LogEntry]:
        """The backlog's entries above a sequence, in order, found from the newest back."""
        found: list[LogEntry] = []
        for entry in reversed(self._backlog):
            if entry.sequence <= above:
                break
            found.append(entry)
        found.reverse()
        return found

    def follow(self, channel: Channel, request: Follow, base_sequence: int) -> FollowReply:
        """Start pushing to a follower. ``base_sequence``: where this epoch's history starts; a
        follower exactly there, in the epoch before, needs nothing from the store."""
        behind = request.sequence
        in_reach = (
            request.epoch == self._epoch or (request.sequence == base_sequence and behind > 0)
        ) and behind >= self._start - 1
        if any(len(entry.payload) > PUSHED_ENTRY_BYTES_MAX for entry in self._unsent(behind)):
            in_reach = False
        if not in_reach:
            return FollowReply(self._epoch, self.last_sequence, from_store=True)
        while len(self.followers) >= FOLLOWERS_MAX:
            self.followers.pop(next(iter(self.followers)))
        follower = Follower(request.incarnation, request.part, request.endpoint, channel, behind)
        self.followers[request.incarnation] = follower
        self._push(follower)
        return FollowReply(self._epoch, self.last_sequence, from_store=False)

    def followed(self, incarnation: bytes, message: Followed) -> None:
        follower = self.followers.get(incarnation)
        if follower is not None and message.epoch == self._epoch:
            follower.sequence = max(follower.sequence, message.sequence)

    def lag(self) -> int | None:
        """Entries that the closest follower has not confirmed; None without a follower."""
        sequences = [f.sequence for f in self.followers.values() if f.channel.alive]
        return self.last_sequence - max(sequences) if sequences else None


class Follower:
    """One follower as the active knows it."""

    __slots__ = ("channel", "endpoint", "incarnation", "part", "pushed", "sequence")

    def __init__(
        self, incarnation: bytes, part: str, endpoint: str, channel: Channel, sequence: int
    ) -> None:
        self.incarnation = incarnation
        self.part = part
        self.endpoint = endpoint
        self.channel = channel
        self.sequence = sequence  # It confirmed everything up to here.
        self.pushed = sequence
