"""Claim, seal, lineage and power loss: the logs of one role on an append backend.

What is modelled. Epoch 1 has an owner that serves. Each later epoch is claimed by a process that
seals what is below it, records its lineage, and then serves, too. All of them run at once; each may
stop for any time before any of its steps, and for ever. So a frozen process whose append lands long
after it was superseded is a process that takes its write step late, and a process that crashed is
one that takes no step any more: neither needs a step of its own. The last epoch's owner stands for
the recovery of the whole cluster: it is not interrupted by power loss, and what it serves is
compared with everything that was ever answered.

Disk. A record is in the page cache of the host that wrote it (``CACHE``: everybody sees it, a power
loss may take it), in the cache only because a sync failed and marked the page clean (``CLEAN``: no
later sync writes it), or on the device. Power loss of a host drops any subset of what was cached
there, and ends its processes. A failed sync leaves the batch on the device, clean in the cache, or
nowhere. Records are whole or absent: a torn record is absent (its checksum fails). Names in the
claim folder become durable in the order of their creation (all file systems of the allow-list
journal so), so a power loss takes a suffix of the claims that were not synced.

Shapes. *One host*: power loss ends every process, and once a sync fails. *Batches*: the same with
two records of one owner, and one epoch less. *Two hosts*: what was written on one is seen on the
other once it is on the device, be it data or a name (less than any coherent file system of the
allow-list shows); each host loses power by itself, and then only what was cached there.

A finding: with one page cache for all, a claim check between write and fsync does no harm, since a
successor sees what was written before it claimed, and an owner who lost power acknowledges nothing.
It needs two hosts to lose a record that way. The product checks after the fsync.

| step | code |
|---|---|
| ``writes`` | ``AppendLog._make_durable``: ``batch.write`` |
| ``syncs``, ``the sync fails`` | ``batch.sync``; an error ends the log (``BaseLog._end``, R7) |
| ``checks`` | ``AppendLog._successor_absent``, after the sync (R3) |
| ``acknowledges`` | ``BaseLog._acknowledge``, ``GroupLog.settled`` |
| ``links``, ``syncs its claim`` | ``LocalAppendStore.put_if_absent``: link, folder (R1) |
| ``reads log n`` | ``seal_append_log``: ``walk.run`` (R4, R5) |
| ``syncs and drops log n`` | ``seal_append_log``: ``sync_and_drop`` |
| ``verifies log n`` | ``Walk.verify_tail``, then ``StoreRecovery.derive_lineage`` and ``replay`` |
| ``writes its lineage`` | ``ActiveAuthority.begin``, ``GroupLog.write`` |

Not in it: segments and rolling, checkpoints (``deletion.py``), followers (what they read ahead is
kept only if the lineage holds it), damage of durable bytes.

About 83,000, 12,000 and 54,000 states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any, ClassVar, Final, NamedTuple

from .explore import Model

CACHE: Final = 0
CLEAN: Final = 1
DEVICE: Final = 2

History = tuple[tuple[int, int], ...]  # (epoch, records that count), oldest first.
Contents = tuple[tuple[int, ...], ...]  # Values by epoch.

ACKED: Final = "acknowledged records stay"
TOLD: Final = "what was answered is final"
SUPERSEDED: Final = "superseded owners do not acknowledge"
CURRENT: Final = "reads are current"
DAMAGE: Final = "no damage is seen where none was done"


class Record(NamedTuple):
    """``value`` 0: a lineage, which says ``line``. ``stated``: how many records of this log were
    acknowledged when it was written (``durable_to``)."""

    value: int
    where: int
    stated: int
    line: History = ()


Log = tuple[Record | None, ...]


class Process(NamedTuple):
    """The owner of an epoch."""

    at: str = ""  # What it does next; "": nobody has claimed the epoch.
    log: int = 0  # The epoch that is being sealed.
    read: int = 0  # Whole records seen there.
    line: History = ()
    seen: Contents = ()  # What the records of the line say.
    mine: tuple[int, ...] = ()  # Own records that are acknowledged.
    batch: tuple[int, ...] = ()
    late: bool = False  # The batch was begun after a successor had claimed.
    given: int = 0  # Values given out.


DEAD: Final = Process("dead")
READ_ALL: Final = ("lineage", "batch", "checks", "acknowledges", "serves")


class State(NamedTuple):
    claims: int  # The highest epoch that is claimed, as everybody sees it.
    durable_claims: int
    logs: tuple[Log, ...]  # By epoch, from 1.
    processes: tuple[Process, ...]
    told: Contents  # What clients were answered.
    teller: int  # The newest epoch that answered: what is below it is final.
    acknowledged: frozenset[int]
    losses: int  # Power losses that may still come.
    failures: int  # The same of syncs.
    broken: str


def whole(log: Log) -> int:
    """Where the log ends: its first record that is not whole."""
    for index, record in enumerate(log):
        if record is None:
            return index
    return len(log)


def misses_durable(log: Log) -> bool:
    """Does a record behind the end name one at the end, or later, as durable (R5)?"""
    end = whole(log)
    return any(record is not None and record.stated > end for record in log[end:])


def synced(log: Log) -> Log:
    return tuple(_moved(record, DEVICE) for record in log)


def _moved(record: Record | None, where: int) -> Record | None:
    """What was dirty in the cache is somewhere else now."""
    if record is None or record.where != CACHE:
        return record
    return record._replace(where=where)


def on_device(log: Log) -> Log:
    return _trimmed(tuple(r if r is not None and r.where == DEVICE else None for r in log))


def after_loss(log: Log) -> list[Log]:
    """What a power loss may leave of a log."""
    choices = []
    for record in log:
        if record is None or record.where == CLEAN:
            choices.append((None,))
        elif record.where == CACHE:
            choices.append((None, record._replace(where=DEVICE)))
        else:
            choices.append((record,))
    return [_trimmed(left) for left in product(*choices)]


def _trimmed(log: Log) -> Log:
    """Without the absent records behind the last that is there."""
    end = len(log)
    while end and log[end - 1] is None:
        end -= 1
    return log[:end]


def _with(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return (*items[:index], item, *items[index + 1 :])


class Lineage(Model[State]):
    """See the module."""

    name = "log: one host"
    hosts: tuple[int, ...] = (0, 0, 0, 0)
    records: tuple[int, ...] = (1, 1, 0, 0)  # Of each epoch, besides its lineage.
    losses = 2
    failures = 1
    variants: ClassVar[Mapping[str, str]] = {
        "ack before fsync": ACKED,
        "no claim check after the append": SUPERSEDED,
        "claim check before the append": SUPERSEDED,
        "claim used before it is durable": TOLD,
        "seal fsyncs before it reads": DAMAGE,
        "seal does not fsync what it read": DAMAGE,
        "seal trusts the page cache": DAMAGE,
        "seal cuts the tail of the log": DAMAGE,
        "lineage derived anew": TOLD,
        "serves before the lineage is recorded": TOLD,
        "fsync tried again after an error": ACKED,
        "reads are not checked": CURRENT,
    }

    def initial(self) -> Iterable[State]:
        n = len(self.hosts)
        owner = Process("serves", mine=(0,), seen=((),) * n)
        logs: tuple[Log, ...] = ((Record(0, DEVICE, 0),), *((),) * (n - 1))
        processes = (owner, *(Process(),) * (n - 1))
        told = ((),) * n
        yield State(1, 1, logs, processes, told, 1, frozenset(), self.losses, self.failures, "")

    def invariants(self) -> Mapping[str, Callable[[State], bool]]:
        def unbroken(name: str) -> Callable[[State], bool]:
            return lambda state: state.broken != name

        return {name: unbroken(name) for name in (ACKED, TOLD, SUPERSEDED, CURRENT, DAMAGE)}

    def goals(self) -> Mapping[str, Callable[[State], bool]]:
        return {"the last claimant serves": lambda state: state.processes[-1].at == "serves"}

    def actions(self, state: State) -> Iterator[tuple[str, State]]:
        for index, process in enumerate(state.processes):
            if process.at:
                if process.at != "dead":
                    step = getattr(self, process.at)
                    for label, after in step(state, index, process):
                        yield f"{index + 1} {label}", after
            elif state.claims == index and self.sees_claim(state, index):
                yield f"{index + 1} links its claim", self.link(state, index)
        if state.losses and state.claims < len(self.hosts):
            for host in sorted(set(self.hosts)):
                for after in self.lose_power(state, host):
                    yield f"power loss of host {host}", after

    def canonical(self, state: State) -> State:
        """Forget what cannot matter any more.

        Who has given out all his values and serves has no step left. Who has not passed his check
        when a later claim is durable will not pass it: once the last claimant has read what it
        stands on, nobody reads what such a process still writes, nor the logs below.
        """
        if self.variant:
            return state
        reads_done = state.processes[-1].at in READ_ALL
        processes = list(state.processes)
        for index, process in enumerate(processes[:-1]):
            served = process.at == "serves" and process.given == self.records[index]
            fenced = process.at == "checks" or (reads_done and process.at != "acknowledges")
            if served or (process.at and fenced and state.durable_claims > index + 1):
                processes[index] = DEAD
        logs = ((),) * (len(state.logs) - 1) + state.logs[-1:] if reads_done else state.logs
        return state._replace(processes=tuple(processes), logs=logs)

    def seen(self, state: State, of: int, by: int) -> Log:
        """A log as another process reads it."""
        log = state.logs[of]
        return log if self.hosts[of] == self.hosts[by] else on_device(log)

    def sees_claim(self, state: State, index: int) -> bool:
        """Does the next claimant see the claim below his own?"""
        return self.hosts[index] == self.hosts[index - 1] or state.durable_claims == index

    def fenced(self, state: State, index: int) -> bool:
        """Does the owner see the claim of his successor?"""
        near = self.hosts[index] == self.hosts[min(index + 1, len(self.hosts) - 1)]
        return (state.claims if near else state.durable_claims) > index + 1

    def put(self, state: State, index: int, process: Process, log: Log | None = None) -> State:
        """The state after a step of a process, which may have changed its own log."""
        logs = state.logs if log is None else _with(state.logs, index, log)
        return state._replace(processes=_with(state.processes, index, process), logs=logs)

    # A successor: claim, seal, lineage --------------------------------------------------------

    def link(self, state: State, index: int) -> State:
        at = "reads" if self.variant == "claim used before it is durable" else "linked"
        if self.variant == "seal fsyncs before it reads" and at == "reads":
            at = "syncs_below"
        return self.put(state, index, Process(at, log=index))._replace(claims=index + 1)

    def linked(self, state: State, index: int, process: Process) -> Iterator[tuple[str, State]]:
        at = "syncs_below" if self.variant == "seal fsyncs before it reads" else "reads"
        after = self.put(state, index, process._replace(at=at))
        durable = max(state.durable_claims, index + 1)
        yield "syncs its claim", after._replace(durable_claims=durable)

    def reads(self, state: State, index: int, process: Process) -> Iterator[tuple[str, State]]:
        log = self.seen(state, process.log - 1, index)
        synced_before = self.variant == "seal fsyncs before it reads"
        skips = synced_before or self.variant == "seal does not fsync what it read"
        reader = process._replace(at="verifies" if skips else "syncs_below", read=whole(log))
        broken = DAMAGE if misses_durable(log) else ""
        yield f"reads log {process.log}", self.put(state, index, reader)._replace(broken=broken)

    def syncs_below(
        self, state: State, index: int, process: Process
    ) -> Iterator[tuple[str, State]]:
        log = state.logs[process.log - 1]
        if self.hosts[process.log - 1] == self.hosts[index]:
            log = synced(log)
            if self.variant != "seal trusts the page cache":
                log = on_device(log)
        at = "reads" if self.variant == "seal fsyncs before it reads" else "verifies"
        after = self.put(state, index, process._replace(at=at))
        logs = _with(state.logs, process.log - 1, log)
        yield f"syncs log {process.log} and drops its pages", after._replace(logs=logs)

    def verifies(self, state: State, index: int, process: Process) -> Iterator[tuple[str, State]]:
        below = process.log
        log = self.seen(state, below - 1, index)
        end = min(process.read, whole(log))
        label = f"verifies log {below}"
        if self.variant == "seal cuts the tail of the log":
            state = state._replace(logs=_with(state.logs, below - 1, log[:end]))
        if end == 0 and below > 1:
            at = "syncs_below" if self.variant == "seal fsyncs before it reads" else "reads"
            yield label, self.put(state, index, process._replace(at=at, log=below - 1, read=0))
            return
        line = self.line_on(state, index, below, end)
        seen = []
        damage = False
        for epoch in range(1, len(self.hosts) + 1):
            records = self.seen(state, epoch - 1, index)[: dict(line).get(epoch, 0)]
            damage |= len(records) < dict(line).get(epoch, 0) or None in records
            seen.append(tuple(record.value for record in records if record and record.value))
        owner = Process("lineage", line=line, seen=tuple(seen))
        after = self.put(state, index, owner)
        if damage:
            after = after._replace(broken=DAMAGE)
        elif self.variant.startswith("serves before") and not self.fenced(state, index):
            after = self.answered(after, index, owner, ())
        yield label, after

    def line_on(self, state: State, index: int, below: int, end: int) -> History:
        """The history of whoever stands on the first ``end`` records of log ``below``."""
        if end == 0:
            return ()
        if self.variant == "lineage derived anew":
            older = [(e, whole(self.seen(state, e - 1, index))) for e in range(1, below)]
            return (*(item for item in older if item[1]), (below, end))
        first = self.seen(state, below - 1, index)[0]
        assert first is not None
        return (*first.line, (below, end))

    def lineage(self, state: State, index: int, process: Process) -> Iterator[tuple[str, State]]:
        log = (Record(0, CACHE, 0, process.line), *state.logs[index][1:])
        owner = process._replace(at="batch", batch=(0,), late=state.durable_claims > index + 1)
        yield "writes its lineage", self.put(state, index, owner, log)

    # An owner: append, sync, check, acknowledge -----------------------------------------------

    def serves(self, state: State, index: int, process: Process) -> Iterator[tuple[str, State]]:
        if process.given < self.records[index]:
            late = state.durable_claims > index + 1
            process = process._replace(late=late)
            if self.variant == "claim check before the append":
                owner = DEAD if self.fenced(state, index) else process._replace(at="writes")
                yield "checks", self.put(state, index, owner)
            else:
                yield from self.writes(state, index, process)
        if self.variant == "reads are not checked":
            stale = state.teller > index + 1 and state.told != self.contents(index, process)
            yield "answers a read", state._replace(broken=CURRENT if stale else "")

    def writes(self, state: State, index: int, process: Process) -> Iterator[tuple[str, State]]:
        """Append one more record to the batch."""
        value = 10 * (index + 1) + process.given + 1
        log = state.logs[index]
        place = len(process.mine) + len(process.batch)
        record = Record(value, CACHE, len(process.mine))
        log = (*log[:place], *(None,) * (place - len(log)), record, *log[place + 1 :])
        owner = process._replace(at="batch", batch=(*process.batch, value), given=process.given + 1)
        yield f"writes {value}", self.put(state, index, owner, log)

    def batch(self, state: State, index: int, process: Process) -> Iterator[tuple[str, State]]:
        if process.batch[0] and process.given < self.records[index]:
            yield from self.writes(state, index, process)
        if self.variant in ("ack before fsync", "claim check before the fsync"):
            yield from self.checks(state, index, process)
        else:
            yield from self.syncs(state, index, process)

    def syncs(self, state: State, index: int, process: Process) -> Iterator[tuple[str, State]]:
        checked_before = self.variant.startswith(("no claim check", "claim check before"))
        owner = process._replace(at="acknowledges" if checked_before else "checks")
        log = state.logs[index]
        yield "syncs", self.put(state, index, owner, synced(log))
        if not state.failures or index + 1 == len(self.hosts):
            return
        ended = DEAD
        if self.variant == "fsync tried again after an error":
            ended = process._replace(at="syncs")
        elif self.variant == "offset reused after a failed fsync" and process.batch[0]:
            ended = process._replace(at="serves", batch=())
        gone = tuple(record if record and record.where != CACHE else None for record in log)
        clean = tuple(_moved(record, CLEAN) for record in log)
        for left, what in (
            (synced(log), "stays"),
            (clean, "is clean"),
            (_trimmed(gone), "is gone"),
        ):
            after = self.put(state, index, ended, left)
            yield f"fails to sync, the batch {what}", after._replace(failures=state.failures - 1)

    def checks(self, state: State, index: int, process: Process) -> Iterator[tuple[str, State]]:
        at = "syncs" if self.variant == "claim check before the fsync" else "acknowledges"
        owner = DEAD if self.fenced(state, index) else process._replace(at=at)
        yield "checks", self.put(state, index, owner)

    def acknowledges(
        self, state: State, index: int, process: Process
    ) -> Iterator[tuple[str, State]]:
        values = tuple(value for value in process.batch if value)
        owner = process._replace(
            at="serves", mine=process.mine + process.batch, batch=(), late=False
        )
        after = self.answered(self.put(state, index, owner), index, owner, values)
        if process.late and not after.broken:
            after = after._replace(broken=SUPERSEDED)
        yield "acknowledges", after

    def contents(self, index: int, process: Process) -> Contents:
        """What the owner of an epoch holds."""
        return _with(process.seen, index, tuple(value for value in process.mine if value))

    def answered(
        self, state: State, index: int, process: Process, values: tuple[int, ...]
    ) -> State:
        """A client was told of what the owner holds, and that ``values`` are written."""
        contents = self.contents(index, process)
        acknowledged = state.acknowledged.union(values)
        told, teller = state.told, max(state.teller, index + 1)
        older, newer = (contents, told) if index + 1 < state.teller else (told, contents)
        grows = min(index + 1, state.teller) - 1  # The log that may have grown between the two.
        if not _continues(older, newer, grows):
            kept = frozenset(value for log in newer for value in log)
            broken = TOLD if acknowledged <= kept else ACKED
            return state._replace(broken=broken)
        return state._replace(told=newer, teller=teller, acknowledged=acknowledged)

    # Power ------------------------------------------------------------------------------------

    def lose_power(self, state: State, host: int) -> Iterator[State]:
        processes = [
            DEAD if process.at and self.hosts[index] == host else process
            for index, process in enumerate(state.processes)
        ]
        first_lost = state.claims
        while first_lost > state.durable_claims and self.hosts[first_lost - 1] == host:
            first_lost -= 1
        logs = [
            after_loss(log) if self.hosts[index] == host else [log]
            for index, log in enumerate(state.logs)
        ]
        for claims in range(first_lost, state.claims + 1):
            left = tuple(
                process if index < claims else Process() for index, process in enumerate(processes)
            )
            durable = claims if first_lost == state.durable_claims else state.durable_claims
            for outcome in product(*logs):
                yield state._replace(
                    claims=claims,
                    durable_claims=durable,
                    logs=outcome,
                    processes=left,
                    losses=state.losses - 1,
                )


def _continues(older: Contents, newer: Contents, grows: int) -> bool:
    """Is ``newer`` a later state of the history of ``older``? Log number ``grows`` may have grown,
    those below it are final, and those above it had nothing."""
    if older[:grows] != newer[:grows] or any(older[grows + 1 :]):
        return False
    return newer[grows][: len(older[grows])] == older[grows]


class Batches(Lineage):
    """Two records, in one batch or in two, and one successor before the last claimant."""

    name = "log: batches"
    hosts = (0, 0, 0)
    records = (2, 1, 0)
    variants: ClassVar[Mapping[str, str]] = {
        "ack before fsync": DAMAGE,
        "no claim check after the append": SUPERSEDED,
        "seal fsyncs before it reads": DAMAGE,
        "seal does not fsync what it read": DAMAGE,
        "lineage derived anew": TOLD,
        "offset reused after a failed fsync": DAMAGE,
        "fsync tried again after an error": DAMAGE,
    }


class TwoHosts(Lineage):
    """The owner on one host, its successors in turns on another and on the first."""

    name = "log: two hosts"
    hosts = (0, 1, 0, 1)
    failures = 0
    variants: ClassVar[Mapping[str, str]] = {
        "ack before fsync": ACKED,
        "no claim check after the append": SUPERSEDED,
        "claim check before the append": SUPERSEDED,
        "claim check before the fsync": ACKED,
        "claim used before it is durable": ACKED,
        "seal fsyncs before it reads": DAMAGE,
        "seal does not fsync what it read": DAMAGE,
        "lineage derived anew": TOLD,
        "serves before the lineage is recorded": TOLD,
        "reads are not checked": CURRENT,
    }
