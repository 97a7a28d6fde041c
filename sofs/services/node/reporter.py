"""Telling the authority of pages that fail their checksum (``$corrupt``, G2).

A read that meets such a page is refused at once; the report goes its own way, in batches, again and
again until the authority has it in its log, so that nobody waits for it. It goes behind the commit
of the file's records, since the authority keeps a place only while the file's extent names it.

Limits. CORRUPT_QUEUED_PLACES_MAX places wait at a time; more are dropped with a log line, and found
again by the next read of them. What was told is remembered, so that a page that is read often is
told once; TOLD_MAX places of it.
"""

from __future__ import annotations

import logging
from typing import Final

from sofs.constants import CORRUPT_REPORT_PLACES_MAX
from sofs.core.messages import CorruptKind, CorruptPlace, ReportCorrupt
from sofs.errors import SofsError
from sofs.services.node.commits import Commits
from sofs.services.node.file_table import FileTable
from sofs.services.node.link import AuthorityLink
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.node")

CORRUPT_QUEUED_PLACES_MAX: Final = 1024
TOLD_MAX: Final = 16_384
_Key = tuple[int, int, int, int]


class Reporter:
    """One life's reports of damaged pages."""

    def __init__(
        self, link: AuthorityLink, commits: Commits, table: FileTable, tasks: Tasks
    ) -> None:
        self._link = link
        self._commits = commits
        self._table = table
        self._tasks = tasks
        self._queue: dict[_Key, CorruptPlace] = {}
        self._told: dict[_Key, None] = {}
        self._running = False
        self.dropped = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def report(self, ino: int, page: int, log_id: int, segment: int, sequence: int) -> None:
        """Tell of one page of a file, as a record of a data log holds it. Returns at once."""
        key = (ino, page, log_id, sequence)
        if key in self._told or key in self._queue:
            return
        if len(self._queue) >= CORRUPT_QUEUED_PLACES_MAX:
            self.dropped += 1
            log.error("$corrupt: %d places wait to be told; one more is not", len(self._queue))
            return
        self._queue[key] = CorruptPlace(
            int(CorruptKind.PAGE), ino, page, 1, log_id, segment, sequence
        )
        if not self._running:
            self._running = True
            self._tasks.spawn(self._run(), "report-corrupt")

    async def _run(self) -> None:
        try:
            while self._queue:
                await self._send(list(self._queue)[:CORRUPT_REPORT_PLACES_MAX])
        finally:
            self._running = False

    async def _send(self, keys: list[_Key]) -> None:
        files = [self._table.files.get(ino) for ino, *_ in keys]
        await self._commits.settle(
            max((f.last_sequence for f in files if f is not None), default=0)
        )
        body = ReportCorrupt([self._queue[key] for key in keys])
        try:
            await self._link.call(lambda: body, own=True)
        except SofsError as error:
            log.error("$corrupt: the authority does not take a report: %s", error)
        for key in keys:
            del self._queue[key]
            self._told[key] = None
        while len(self._told) > TOLD_MAX:
            del self._told[next(iter(self._told))]
