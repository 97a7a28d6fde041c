"""The active side of following: entries that are durable and checked go to every follower, in
order.

Nobody waits for a follower. What is kept for late ones is bounded; a follower that wants more reads
checkpoint and log from the store and comes back.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from sofs.core.messages import Entries, Follow, Followed, FollowReply, LogEntry
from sofs.errors import Unavailable
from sofs.services.channel import Channel

ENTRIES_BYTES_MAX: Final = 1024 * 1024  # In one Entries message, unless one entry is larger.
PUSHED_ENTRY_BYTES_MAX: Final = 3 * 1024 * 1024  # A larger one is read from the store.
FOLLOWER_BEHIND_MAX: Final = 20_000  # Entries pushed and not confirmed; beyond it the stream ends.
FOLLOWERS_MAX: Final = 4


class FollowerFeed:
    """Pushes the log of ``epoch`` to its followers."""

    def __init__(self, epoch: int, first_sequence: int, backlog_bytes_max: int) -> None:
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
        entry = LogEntry(sequence, payload)
        self._backlog.append(entry)
        self._backlog_bytes += len(payload)
        self.logged_bytes += len(payload)
        self.last_sequence = sequence
        while self._backlog_bytes > self._backlog_bytes_max:
            dropped = self._backlog.popleft()
            self._backlog_bytes -= len(dropped.payload)
            self._start = dropped.sequence + 1
        for follower in list(self.followers.values()):
            if len(payload) > PUSHED_ENTRY_BYTES_MAX:
                follower.channel.end(Unavailable("an entry is too large to push: read the store"))
            elif sequence - follower.sequence > FOLLOWER_BEHIND_MAX:
                follower.channel.end(Unavailable("the follower is too far behind"))
            if follower.channel.alive:
                follower.channel.notify(Entries(self._epoch, [entry]))
            else:
                self.followers.pop(follower.incarnation, None)

    def follow(self, channel: Channel, request: Follow, base_sequence: int) -> FollowReply:
        """Start pushing to a follower. ``base_sequence``: where this epoch's history starts; a
        follower exactly there, in the epoch before, needs nothing from the store."""
        behind = request.sequence
        in_reach = (
            request.epoch == self._epoch or (request.sequence == base_sequence and behind > 0)
        ) and behind >= self._start - 1
        if any(
            entry.sequence > behind and len(entry.payload) > PUSHED_ENTRY_BYTES_MAX
            for entry in self._backlog
        ):
            in_reach = False
        if not in_reach:
            return FollowReply(self._epoch, self.last_sequence, from_store=True)
        while len(self.followers) >= FOLLOWERS_MAX:
            self.followers.pop(next(iter(self.followers)))
        self.followers[request.incarnation] = Follower(
            request.incarnation, request.part, request.endpoint, channel, behind
        )
        reply = FollowReply(self._epoch, self.last_sequence, from_store=False)
        batch: list[LogEntry] = []
        n_bytes = 0
        waiting: list[Entries] = []
        for entry in self._backlog:
            if entry.sequence <= behind:
                continue
            batch.append(entry)
            n_bytes += len(entry.payload)
            if n_bytes >= ENTRIES_BYTES_MAX:
                waiting.append(Entries(self._epoch, batch))
                batch, n_bytes = [], 0
        if batch:
            waiting.append(Entries(self._epoch, batch))
        for message in waiting:
            channel.notify(message)
        return reply

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

    __slots__ = ("channel", "endpoint", "incarnation", "part", "sequence")

    def __init__(
        self, incarnation: bytes, part: str, endpoint: str, channel: Channel, sequence: int
    ) -> None:
        self.incarnation = incarnation
        self.part = part
        self.endpoint = endpoint
        self.channel = channel
        self.sequence = sequence
