"""The state machine: whatever clients do and whatever dies, each answer is the one of the model.

Theory. Rules draw an operation, run it in the ``World`` and then in the ``Model``; both must return
the same, or refuse with the same code. Faults are rules of their own (between two calls) or strike
in the middle of the next call; neither changes what the model says, because to an application there
are none. So one machine checks names, share modes, locks, exactly-once and failover together.

What an application cannot tell exactly is not predicted: while a dead client's handle keeps a file,
who asks for that file by a path with a short deadline is either answered as the model says, or told
that the file is not available; and if the model says the latter, nothing else will do. How long the
handle keeps it is bounded: before its timeout comes near, the machine lets it pass.

Small numbers on purpose: few names, few offsets, so that operations meet.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Final

from fs_draws import (
    CLIENTS,
    HANDLES_MAX,
    PATHS,
    SHARES,
    apps,
    attributes,
    clients,
    deletes,
    lengths,
    maybe,
    modes,
    offsets,
    picks,
    ranges,
    shares,
    spots,
    times,
    troubles,
)
from fs_model import (
    FENCED,
    UNSUPPORTED,
    Handle,
    Inode,
    Model,
    Opened,
    Refused,
    equal,
    same_info,
    serial_bytes,
)
from fs_world import AUTHORITIES, NODES, SimWorld, Trouble, World
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sofs.client.aio import AsyncShare
from sofs.client.file import AsyncFile, LockedView
from sofs.core.messages import (
    Access,
    Disposition,
    FileInfo,
    LockRange,
    Open,
    OpenReply,
    ReadDir,
    ReadDirReply,
    Share,
)
from sofs.errors import DeadlineExceeded, FileNotAvailable, OutcomeUnknown, SofsError

FENCED_TRIES_MAX: Final = 20
OK: Final = "ok"


class FileSystemMachine(RuleBasedStateMachine):
    """See the module."""

    make_world: ClassVar[Callable[[], World]] = SimWorld
    kills_max: ClassVar[int] = 100  # Of clients in one example.

    def __init__(self) -> None:
        super().__init__()
        self.world = type(self).make_world()
        self.model = Model()
        self.lives: dict[int, int] = {}  # Client -> its life.
        self.life_numbers = itertools.count(1)
        self.serials = itertools.count(1)
        self.opened: list[Opened] = []
        self.dead: list[Handle] = []
        self.died_ms = 0  # When the first of them died.
        self.gated = False  # A take-over may have its gate closed for what a dead client holds.
        self.trouble: Trouble | None = None
        self.troubles = 0
        self.kills = 0
        self.broken = False

    @initialize()
    def start(self) -> None:
        for client in (0, 1):
            self._connect(client, client + 1)
        self._mkdir(0, "/d")
        self._write_file(1, "/d/a", 5_000, True)

    def _connect(self, client: int, node: int) -> None:
        self.world.connect(client, node)
        self.lives[client] = next(self.life_numbers)

    # Running one operation on both sides ------------------------------------------------------

    def _client(self, drawn: int) -> int:
        alive = sorted(self.lives)
        return alive[drawn % len(alive)]

    def _path(self, spot: int) -> str:
        """Mostly something that exists."""
        there = sorted(inode.path for inode in self.model.tree())
        if spot % 4 and there:
            return there[spot // 4 % len(there)]
        return PATHS[spot // 4]

    def _opened(self, drawn: int) -> Opened:
        return self.opened[drawn % len(self.opened)]

    def _both(
        self,
        client: int,
        work: Callable[[AsyncShare, int | None], Awaitable[Any]],
        told: Callable[[], Any],
        same: Callable[[Any, Any], None] | None = None,
        *,
        names: Sequence[str] = (),
        also: Sequence[str] = (),
        passes_gate: bool = False,
    ) -> tuple[str, Any]:
        """Run an operation of ``client``, then ``told`` of the model, and compare. ``names``: what
        it names, as far as an absent client may keep it; ``also``: codes that will do, too.
        Returns the outcome, ``OK`` or a code, and what the model returned."""
        try:
            return self._both_or_broken(client, work, told, same, names, also, passes_gate)
        except BaseException:
            self.broken = True  # Nothing more is said of it at the end.
            raise

    def _both_or_broken(
        self,
        client: int,
        work: Callable[[AsyncShare, int | None], Awaitable[Any]],
        told: Callable[[], Any],
        same: Callable[[Any, Any], None] | None,
        names: Sequence[str],
        also: Sequence[str],
        passes_gate: bool,
    ) -> tuple[str, Any]:
        kept = self._keep_out(client) and self.model.kept(names)
        limit_ms, fenced = None, False
        if kept:
            gated = self.gated and not passes_gate
            fenced = self._would_say(told) == FENCED
            kept = fenced or gated
            limit_ms = None if not kept else self.world.fence_ms * (1 if fenced else 5)
        trouble = None
        if not kept:
            trouble, self.trouble = self.trouble, None
        outcome, found = self._run(client, lambda share: work(share, limit_ms), trouble)
        for _ in range(FENCED_TRIES_MAX if kept else 0):
            if outcome not in (DeadlineExceeded.code, OutcomeUnknown.code):
                break  # Else it still waits for a take-over, and nobody has refused it.
            outcome, found = self._run(client, lambda share: work(share, limit_ms), None)
        if outcome == FENCED and kept:
            if fenced:
                with contextlib.suppress(Refused):
                    told()  # An older application instance is closed even so.
            return FENCED, None
        expected, wanted = OK, None
        try:
            wanted = told()
        except Refused as refused:
            expected = refused.code
        assert outcome == expected or outcome in also, (
            f"client {client}: {outcome}, not {expected} ({found!r})"
        )
        if outcome == OK and same is not None:
            same(found, wanted)
        if names and trouble is None:
            self._compare_held()
        return outcome, wanted

    def _compare_held(self) -> None:
        """What the servers hold for everybody. Only when the volume's authority has just answered
        and nothing struck since: else what can be looked at may be one that was superseded."""
        held = self.world.held()
        wanted = self.model.held()
        assert held is None or held == wanted, f"held are {held}, not {wanted}"

    def _would_say(self, told: Callable[[], Any]) -> str:
        """What the model would have answered, without having done it."""
        kept, self.model = self.model, copy.deepcopy(self.model)
        try:
            told()
            return OK
        except Refused as refused:
            return refused.code
        finally:
            self.model = kept

    def _keep_out(self, client: int) -> bool:
        """Whether anything of a dead client may be in the way. If so all is made quiet first, so
        that a short deadline says something about the file and not about a failover."""
        self._expire_old()
        if not self.dead:
            return False
        self.world.thaw()
        self._run(client, lambda share: share.stat("/"), None)
        return True

    def _run(
        self,
        client: int,
        work: Callable[[AsyncShare], Awaitable[Any]],
        trouble: Trouble | None,
    ) -> tuple[str, Any]:
        if trouble is not None:
            self._note_trouble(trouble)
        try:
            return OK, self.world.call(client, work, trouble)
        except io.UnsupportedOperation as error:
            return UNSUPPORTED, error
        except (DeadlineExceeded, OutcomeUnknown) as error:
            if isinstance(error, OutcomeUnknown):  # The last try was under way.
                self._must_not_happen(client, error)
            if isinstance(error.__cause__, FileNotAvailable):
                return FENCED, error
            return error.code, error
        except SofsError as error:
            return error.code, error

    def _must_not_happen(self, client: int, error: OutcomeUnknown) -> None:
        settled = self.world.call(client, lambda share: share.settle(error.token))
        assert not settled.executed, f"{error}, and yet it took effect"

    def _note_trouble(self, trouble: Trouble) -> None:
        self.troubles += 1
        if trouble.part in AUTHORITIES:
            self.gated = True

    # Opens and closes -------------------------------------------------------------------------

    @precondition(lambda self: len(self.opened) < HANDLES_MAX)
    @rule(
        drawn=clients, spot=spots, mode=modes, share=shares, app=apps, deletes=deletes,
    )  # fmt: skip
    def open(
        self,
        drawn: int,
        spot: int,
        mode: str,
        share: str,
        app: int,
        deletes: str,
    ) -> None:
        self._open(
            self._client(drawn),
            self._path(spot),
            mode,
            share,
            app,
            deletes == "on close",
            bool(deletes),
        )

    @precondition(lambda self: len(self.opened) < HANDLES_MAX)
    @rule(drawn=clients, pick=picks, share=shares, app=apps, deletes=deletes, trouble=maybe)
    def open_a_file(
        self, drawn: int, pick: int, share: str, app: int, deletes: str, trouble: Trouble | None
    ) -> None:
        """One that is there, to read and write."""
        self.trouble = trouble
        files = sorted(i.path for i in self.model.tree() if not i.directory)
        path = files[pick % len(files)] if files else "/a"
        self._open(
            self._client(drawn), path, "a+b", share, app, deletes == "on close", bool(deletes)
        )

    def _open(
        self,
        client: int,
        path: str,
        mode: str,
        share: str,
        app: int,
        delete_on_close: bool,
        deletable: bool,
    ) -> None:
        made: list[AsyncFile] = []

        async def work(connected: AsyncShare, limit_ms: int | None) -> FileInfo:
            file = await connected.open(
                path,
                mode,
                share=Share(sum(SHARES[c] for c in share)),
                delete_on_close=delete_on_close,
                deletable=deletable,
                app_instance=bytes([app]) * 16 if app else b"",
                timeout_ms=self.world.handle_timeout_ms,
                deadline_ms=limit_ms,
            )
            made.append(file)
            return file.opened_info

        life = self.lives[client]

        def told() -> Handle:
            return self.model.open(
                life, path, mode, share,
                delete_on_close=delete_on_close, deletable=deletable, app=app,
            )  # fmt: skip

        outcome, handle = self._both(
            client,
            work,
            told,
            lambda info, handle: same_info(info, handle.inode),
            names=[path],
            passes_gate=self.model.takes_over(life, path, app),
        )
        if outcome == OK:
            self.opened.append(Opened(handle, made[0], client))
        self.dead = [each for each in self.dead if not each.taken]

    @precondition(lambda self: self.opened)
    @rule(pick=picks, trouble=maybe)
    def close(self, pick: int, trouble: Trouble | None) -> None:
        self.trouble = trouble
        opened = self._opened(pick)
        self._close(opened)
        self.opened.remove(opened)

    def _close(self, opened: Opened) -> None:
        self._on(
            opened,
            lambda file: file.close(),
            lambda: self.model.close(opened.handle),
            told_before=opened.file.remote.lost_told,
        )

    @precondition(lambda self: self.opened)
    @rule(pick=picks)
    def open_again_under_the_same_guid(self, pick: int) -> None:
        """A create GUID names one open; a second one with it is refused and changes nothing."""
        opened = self._opened(pick)
        if opened.handle.taken:
            return

        async def work(share: AsyncShare, limit_ms: int | None) -> None:
            body = Open(
                caller=share._flight.caller(),
                path="/never",
                access=int(Access.READ),
                share=int(Share.ALL),
                disposition=int(Disposition.OPEN_IF),
                create_guid=opened.file.remote.create_guid,
            )
            await share._mutate(body, OpenReply, limit_ms)

        def told() -> None:
            raise Refused("DUPLICATE_OBJECTID")

        self._both(opened.client, work, told)

    def _on(
        self,
        opened: Opened,
        work: Callable[[AsyncFile], Awaitable[Any]],
        told: Callable[[], Any],
        same: Callable[[Any, Any], None] | None = None,
        *,
        told_before: bool = False,
    ) -> None:
        """An operation through an open file. When it was taken over and something else happened
        since, its client may have lost it before it heard why."""
        taken = opened.handle.taken
        if taken and told_before:
            self._both(opened.client, lambda share, _: work(opened.file), lambda: None)
            return
        also = ["HANDLE_LOST", "FILE_CLOSED"] if taken and self.troubles else []
        self._both(opened.client, lambda share, _: work(opened.file), told, same, also=also)

    # Data -------------------------------------------------------------------------------------

    @precondition(lambda self: self.opened)
    @rule(pick=picks, size=lengths, offset=offsets)
    def pread(self, pick: int, size: int, offset: int) -> None:
        opened = self._opened(pick)
        self._on(
            opened,
            lambda file: file.pread(size, offset),
            lambda: self.model.pread(opened.handle, size, offset),
            equal,
        )

    @precondition(lambda self: self.opened)
    @rule(pick=picks, size=lengths, offset=offsets, trouble=maybe)
    def pwrite(self, pick: int, size: int, offset: int, trouble: Trouble | None) -> None:
        self.trouble = trouble
        opened, data = self._opened(pick), serial_bytes(self.serials, size)
        self._on(
            opened,
            lambda file: file.pwrite(data, offset),
            lambda: self.model.pwrite(opened.handle, data, offset),
            equal,
        )

    @precondition(lambda self: self.opened)
    @rule(pick=picks, size=lengths, trouble=maybe)
    def append(self, pick: int, size: int, trouble: Trouble | None) -> None:
        self.trouble = trouble
        opened, data = self._opened(pick), serial_bytes(self.serials, size)
        self._on(
            opened,
            lambda file: file.append(data),
            lambda: self.model.append(opened.handle, data),
            equal,
        )

    @precondition(lambda self: self.opened)
    @rule(pick=picks, size=st.sampled_from([0, 1, 100, 4096, 5000, 20000]), trouble=maybe)
    def truncate(self, pick: int, size: int, trouble: Trouble | None) -> None:
        self.trouble = trouble
        opened = self._opened(pick)
        self._on(
            opened,
            lambda file: file.truncate(size),
            lambda: self.model.truncate(opened.handle, size),
            equal,
        )

    @precondition(lambda self: self.opened)
    @rule(pick=picks)
    def stat_of_an_open_file(self, pick: int) -> None:
        opened = self._opened(pick)
        self._on(
            opened,
            lambda file: file.stat(),
            lambda: self.model.stat_handle(opened.handle),
            same_info,
        )

    @precondition(lambda self: self.opened)
    @rule(pick=picks, wish=st.booleans())
    def set_delete_on_close(self, pick: int, wish: bool) -> None:
        opened = self._opened(pick)
        self._on(
            opened,
            lambda file: file.set_info(delete_on_close=wish),
            lambda: self.model.set_delete_on_close(opened.handle, wish),
            same_info,
        )

    # Locks ------------------------------------------------------------------------------------

    @precondition(lambda self: self.opened)
    @rule(pick=picks, wanted=st.lists(ranges, min_size=1, max_size=2), trouble=maybe)
    def lock(self, pick: int, wanted: list[tuple[int, int, bool]], trouble: Trouble | None) -> None:
        self.trouble = trouble
        opened = self._opened(pick)
        self._on(
            opened,
            lambda file: file.lock_ranges([LockRange(*each) for each in wanted], wait=False),
            lambda: self.model.lock(opened.handle, wanted),
        )

    @precondition(lambda self: self.opened)
    @rule(pick=picks, drawn=ranges, held=st.integers(0, 3), trouble=maybe)
    def unlock(
        self, pick: int, drawn: tuple[int, int, bool], held: int, trouble: Trouble | None
    ) -> None:
        """Mostly a range that is locked."""
        self.trouble = trouble
        opened = self._opened(pick)
        locks = opened.handle.locks
        span = locks[held % len(locks)][:2] if locks and held else drawn[:2]
        self._on(
            opened,
            lambda file: file.unlock(*span),
            lambda: self.model.unlock(opened.handle, [span]),
        )

    @precondition(lambda self: self.opened)
    @rule(pick=picks, held=st.integers(0, 3), test=ranges, take=ranges, parts=st.integers(1, 7))
    def change_locks(
        self,
        pick: int,
        held: int,
        test: tuple[int, int, bool],
        take: tuple[int, int, bool],
        parts: int,
    ) -> None:
        """Give back, test and take in one step; ``parts``: which of them."""
        opened = self._opened(pick)
        locks = opened.handle.locks
        span = locks[held % len(locks)][:2] if locks and held else test[:2]
        dropped = [span] if parts & 1 else []
        tested = [test] if parts & 2 else []
        taken = [take] if parts & 4 else []

        def right(view: LockedView, _: None) -> None:
            if view.size is not None:
                assert view.size == len(opened.handle.inode.data)
                assert view.data == opened.handle.inode.data[:10]

        self._on(
            opened,
            lambda file: file.change_locks(
                drop=[LockRange(*each) for each in dropped],
                test=[LockRange(*each) for each in tested],
                take=[LockRange(*each) for each in taken],
                read=(10, 0),
            ),
            lambda: self.model.change_locks(opened.handle, dropped, tested, taken),
            right,
        )

    # Names ------------------------------------------------------------------------------------

    @rule(drawn=clients, spot=spots, makes=st.booleans(), trouble=maybe)
    def make_or_remove_a_directory(
        self, drawn: int, spot: int, makes: bool, trouble: Trouble | None
    ) -> None:
        self.trouble = trouble
        client, path = self._client(drawn), self._path(spot)
        if makes:
            self._mkdir(client, path)
            return
        self._both(
            client,
            lambda share, limit_ms: share.rmdir(path, deadline_ms=limit_ms),
            lambda: self.model.rmdir(path),
            names=[path],
        )

    def _mkdir(self, client: int, path: str) -> None:
        self._both(
            client,
            lambda share, limit_ms: share.mkdir(path, deadline_ms=limit_ms),
            lambda: self.model.mkdir(path),
            same_info,
            names=[path],
        )

    @rule(drawn=clients, spot=spots, trouble=maybe)
    def unlink(self, drawn: int, spot: int, trouble: Trouble | None) -> None:
        self.trouble = trouble
        path = self._path(spot)
        self._both(
            self._client(drawn),
            lambda share, limit_ms: share.unlink(path, deadline_ms=limit_ms),
            lambda: self.model.unlink(path),
            names=[path],
        )

    @rule(drawn=clients, spot=spots, to_spot=spots, replace=st.booleans(), trouble=maybe)
    def rename(
        self, drawn: int, spot: int, to_spot: int, replace: bool, trouble: Trouble | None
    ) -> None:
        self.trouble = trouble
        source, to = self._path(spot), self._path(to_spot)

        def work(share: AsyncShare, limit_ms: int | None) -> Awaitable[None]:
            move = share.replace if replace else share.rename
            return move(source, to, deadline_ms=limit_ms)

        self._both(
            self._client(drawn),
            work,
            lambda: self.model.rename(source, to, replace),
            names=[source, to],
        )

    @rule(drawn=clients, spot=spots)
    def stat(self, drawn: int, spot: int) -> None:
        path = self._path(spot)
        self._both(
            self._client(drawn),
            lambda share, limit_ms: share.stat(path, deadline_ms=limit_ms),
            lambda: self.model.stat(path),
            same_info,
            names=[path],
        )

    @rule(drawn=clients, spot=spots, after=st.sampled_from(["", "a", "b"]), n=st.integers(1, 3))
    def read_page(self, drawn: int, spot: int, after: str, n: int) -> None:
        """A page of a directory: what comes behind a name, and whether there is more."""
        path = self._path(spot)

        async def work(share: AsyncShare, limit_ms: int | None) -> tuple[list[str], bool]:
            body = ReadDir(path=path, after=after, entries_max=n)
            reply = (await share._query(body, ReadDirReply, limit_ms)).body
            assert isinstance(reply, ReadDirReply)
            return [entry.name for entry in reply.entries], reply.more

        self._both(
            self._client(drawn),
            work,
            lambda: self.model.read_page(path, after, n),
            equal,
            names=[path],
        )

    @rule(drawn=clients, spot=spots, modified=times, attributes=attributes)
    def set_times_or_attributes(
        self, drawn: int, spot: int, modified: int, attributes: int | None
    ) -> None:
        path = self._path(spot)
        chosen = {"modified": modified, "created": modified + 2, "accessed": modified + 1}

        def work(share: AsyncShare, limit_ms: int | None) -> Awaitable[FileInfo]:
            if attributes is not None:
                return share.set_attributes(path, attributes, deadline_ms=limit_ms)
            given = {f"{name}_ns": at for name, at in chosen.items()}
            return share.set_times(path, deadline_ms=limit_ms, **given)

        def told() -> Inode:
            if attributes is not None:
                return self.model.set_attributes(path, attributes)
            return self.model.set_times(path, chosen)

        self._both(self._client(drawn), work, told, same_info, names=[path])

    # Whole files ------------------------------------------------------------------------------

    @rule(drawn=clients, spot=spots)
    def read_file(self, drawn: int, spot: int) -> None:
        self._read_file(self._client(drawn), self._path(spot))

    def _read_file(self, client: int, path: str) -> None:
        self._both(
            client,
            lambda share, limit_ms: share.read_file(path, deadline_ms=limit_ms),
            lambda: self.model.read_file(path),
            equal,
            names=[path],
        )

    @rule(
        drawn=clients,
        spot=spots,
        size=lengths,
        exclusive=st.sampled_from([False, False, True]),
        trouble=maybe,
    )
    def write_file(
        self, drawn: int, spot: int, size: int, exclusive: bool, trouble: Trouble | None
    ) -> None:
        self.trouble = trouble
        self._write_file(self._client(drawn), self._path(spot), size, exclusive)

    def _write_file(self, client: int, path: str, size: int, exclusive: bool) -> None:
        data = serial_bytes(self.serials, size)
        self._both(
            client,
            lambda share, limit_ms: share.write_file(
                path, data, exclusive=exclusive, deadline_ms=limit_ms
            ),
            lambda: self.model.write_file(path, data, exclusive),
            same_info,
            names=[path],
        )

    # Faults -----------------------------------------------------------------------------------

    @rule(drawn=clients, trouble=troubles)
    def strike(self, drawn: int, trouble: Trouble) -> None:
        """Between two calls."""
        self._note_trouble(trouble)
        self.world.fault(self._client(drawn), trouble)

    @rule()
    def thaw(self) -> None:
        self.world.thaw()

    @precondition(lambda self: len(self.lives) > 1)
    @rule(drawn=clients)
    def leave(self, drawn: int) -> None:
        """A client says goodbye."""
        client = self._client(drawn)
        mine = [each for each in self.opened if each.client == client]
        self._both(
            client,
            lambda share, _: share.close(),
            lambda: self.model.leave([each.handle for each in mine]),
        )
        del self.lives[client]
        self.opened = [each for each in self.opened if each.client != client]

    @precondition(lambda self: len(self.lives) > 1 and self.kills < self.kills_max)
    @rule(drawn=clients, busiest=st.sampled_from([True, True, False]))
    def kill_client(self, drawn: int, busiest: bool) -> None:
        """Without a goodbye; returns when the servers have noticed, as far as it shows."""
        client = self._client(drawn)
        if busiest and self.opened:
            client = Counter(each.client for each in self.opened).most_common(1)[0][0]
        if not self.dead:
            self.died_ms = self.world.now_ms()
        self.kills += 1
        self.world.kill_client(client)
        del self.lives[client]
        mine = [each.handle for each in self.opened if each.client == client]
        self.opened = [each for each in self.opened if each.client != client]
        for handle in mine:
            handle.dead = not handle.taken
        self.dead += [handle for handle in mine if handle.dead]
        self.world.thaw()
        shown = dict.fromkeys(h.inode for h in self.dead if h.needs and not h.inode.pending)
        for inode in shown:
            self._until_fenced(inode.path)

    def _until_fenced(self, path: str) -> None:
        client = self._client(0)
        for _ in range(FENCED_TRIES_MAX):
            outcome, _ = self._run(
                client,
                lambda share: share.read_file(path, deadline_ms=self.world.fence_ms),
                None,
            )
            if outcome == FENCED:
                return
        raise AssertionError(f"nothing keeps {path} for the client that is away ({outcome})")

    @precondition(lambda self: len(self.lives) < CLIENTS)
    @rule(node=st.integers(1, NODES))
    def begin_a_life(self, node: int) -> None:
        """A client starts, perhaps in place of one that died."""
        self._connect(next(n for n in range(CLIENTS) if n not in self.lives), node)

    @precondition(lambda self: self.dead)
    @rule()
    def let_handles_expire(self) -> None:
        """The dead clients' handles are over; their files are free, or gone with them."""
        self.world.thaw()
        self._run(self._client(0), lambda share: share.stat("/"), None)
        self.world.pass_ms(self.world.expiry_ms)
        self.model.expire(self.dead)
        self.dead.clear()
        self.gated = False

    def _expire_old(self) -> None:
        age_ms = self.world.now_ms() - self.died_ms
        if self.dead and age_ms > self.world.handle_timeout_ms // 3:
            self.let_handles_expire()

    # Everything -------------------------------------------------------------------------------

    @rule(drawn=clients)
    def walk_and_compare(self, drawn: int) -> None:
        """The whole tree, as any client sees it, and what all of them hold."""
        self._walk(self._client(drawn))

    def _walk(self, client: int) -> None:
        async def work(share: AsyncShare, limit_ms: int | None) -> dict[str, bool]:
            found: dict[str, bool] = {}
            async for directory, directories, files in share.walk("/"):
                for names, is_directory in ((directories, True), (files, False)):
                    found |= {f"{directory.rstrip('/')}/{n}": is_directory for n in names}
            return found

        self._both(client, work, lambda: {i.path: i.directory for i in self.model.tree()}, equal)
        for inode in sorted(self.model.tree(), key=lambda i: i.path):
            if not inode.directory:
                self._read_file(client, inode.path)

    def teardown(self) -> None:
        try:
            if self.lives and not self.broken:
                self._end()
        finally:
            self.world.close()

    def _end(self) -> None:
        """Everybody closes and leaves; what is stored is what the model says, and the servers hold
        nothing for anybody."""
        self.trouble = None
        self.world.thaw()
        while self.opened:
            self._close(self.opened[-1])
            self.opened.pop()
        if self.dead:
            self.let_handles_expire()
        for client in sorted(self.lives):
            self._walk(client)
            self._both(client, lambda share, _: share.close(), lambda: None)
        left = self.world.left_over()
        assert not left, left
