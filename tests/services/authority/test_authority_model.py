"""AuthorityState against a model of plain dictionaries: names, handles, who wrote which page.

Two nodes write under tokens, keep their records unsent, lose tokens, handles and their lives. After
every step all invariants hold, a follower fed by changesets has the same tables, and what the
tables say of every file is what the model remembers. Every mutation is sent twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from authority_harness import NOW, RW, RWD, Client, Node, Volume, dump
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from sofs.core import messages as m
from sofs.core.extents import pack_extent, unpack_extents
from sofs.core.messages import Disposition, OpenOptions
from sofs.errors import SofsError

NAMES = ("a", "b")
PATHS = [f"/{x}" for x in NAMES] + [f"/{x}/{y}" for x in NAMES for y in NAMES]
PATHS += [f"/{x}/{y}/a" for x in NAMES for y in NAMES]
paths = st.sampled_from(PATHS)
who = st.integers(0, 1)
PAGES = 12


@dataclass
class File:
    size: int = 0
    pages: dict[int, tuple[int, int]] = field(default_factory=dict)  # page -> (log id, sequence)
    handles: list[Opened] = field(default_factory=list)
    pending: bool = False
    path: str = ""
    damaged: dict[int, tuple[int, int]] = field(default_factory=dict)  # As ``pages``; reported.


@dataclass
class Opened:
    reply: m.OpenReply
    file: File
    client: int
    guid: bytes
    delete: bool
    connected: bool = True
    window: int = 0


class AuthorityMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.volume = Volume()
        self.lives = 0
        self.tree: dict[str, File | None] = {"": None}  # None: a directory.
        self.opened: list[Opened] = []
        self.records: dict[bytes, list[tuple[Opened, Any]]] = {}  # Unsent, by incarnation.
        self.volume.unsent = self.commit_of

    @initialize()
    def start(self) -> None:
        self.nodes = [self.new_node(), self.new_node()]
        self.clients = [self.volume.client(f"client-{n}", self.nodes[n], "alice") for n in range(2)]

    def new_node(self) -> Node:
        self.lives += 1
        node = self.volume.node(f"node-{self.lives}")
        self.records[node.incarnation] = []
        return node

    def teardown(self) -> None:
        self.volume.close()

    # What the model thinks --------------------------------------------------------------------

    def parent(self, path: str) -> str:
        return path.rpartition("/")[0]

    def children(self, path: str) -> list[str]:
        return [p for p in self.tree if p and self.parent(p) == path]

    def free(self, path: str) -> bool:
        """May a name be made here?"""
        return path not in self.tree and self.tree.get(self.parent(path), 0) is None

    def fenced(self, file: File) -> bool:
        return any(not opened.connected for opened in file.handles)

    def remove_if_done(self, file: File) -> None:
        if file.pending and not file.handles:
            del self.tree[file.path]

    def unsent_to(self, file: File) -> bool:
        return any(opened.file is file for rows in self.records.values() for opened, _ in rows)

    # Doing it ---------------------------------------------------------------------------------

    def twice(self, client: Client, body: Any, expected: bool) -> Any:
        """Send a mutation; if it took effect, send it again: same answer, nothing changed."""
        try:
            first = client.send(body)
        except SofsError as error:
            if expected:
                raise AssertionError(f"{body} was refused") from error
            return None
        assert expected, body
        before = dump(self.volume.database)
        again = client.send(body)
        assert dump(self.volume.database) == before
        if isinstance(first, m.OpenReply):
            again.grant = first.grant
        assert again == first
        return first

    def commit_of(self, incarnation: bytes) -> m.Commit:
        """All unsent records of a node as one batch."""
        node = self.volume.nodes[incarnation]
        rows = self.records[incarnation]
        files: dict[int, m.FileCommit] = {}
        windows: dict[int, m.Window] = {}
        for opened, (header, sequence, segment, offset, sums) in rows:
            commit = files.setdefault(header.file, m.FileCommit(header.file))
            commit.token_generation = header.token_generation
            commit.extents += pack_extent(
                header.first_page, node.log_id, segment, sequence, offset, sums
            )
            commit.size = opened.file.size
            commit.modified_ns = header.mtime_ns
            if header.handle not in windows:
                windows[header.handle] = m.Window(header.handle, header.generation)
                commit.windows.append(windows[header.handle])
            windows[header.handle].watermark = header.op_sequence + 1
        self.records[incarnation] = []
        return node.commit(*files.values())

    @rule(path=paths, n=who)
    def mkdir(self, path: str, n: int) -> None:
        ok = self.free(path)
        if self.twice(self.clients[n], m.Mkdir(self.clients[n].caller(), path), ok):
            self.tree[path] = None

    @rule(path=paths, n=who)
    def rmdir(self, path: str, n: int) -> None:
        ok = path in self.tree and self.tree[path] is None and not self.children(path)
        if self.twice(self.clients[n], m.Rmdir(self.clients[n].caller(), path), ok):
            del self.tree[path]

    @rule(path=paths, n=who)
    def unlink(self, path: str, n: int) -> None:
        file = self.tree.get(path)
        ok = file is not None and not file.pending and not self.fenced(file)
        if self.twice(self.clients[n], m.Unlink(self.clients[n].caller(), path), ok):
            assert file is not None
            file.pending = True
            self.remove_if_done(file)

    @rule(source=paths, to=paths, replace=st.booleans(), n=who)
    def rename(self, source: str, to: str, replace: bool, n: int) -> None:
        target = to
        client = self.clients[n]
        body = m.Rename(client.caller(), source, target, replace)
        if self.twice(client, body, self.may_rename(source, target, replace)):
            if source == target:
                return
            self.tree.pop(target, None)
            for path in [p for p in self.tree if (p + "/").startswith(source + "/")]:
                entry = self.tree.pop(path)
                self.tree[target + path[len(source) :]] = entry
                if entry is not None:
                    entry.path = target + path[len(source) :]

    def may_rename(self, source: str, target: str, replace: bool) -> bool:
        if source not in self.tree:
            return False
        moved, there = self.tree[source], self.tree.get(target)
        if moved is not None and (moved.pending or self.fenced(moved)):
            return False
        if source == target:
            return True
        if moved is None and target.startswith(source + "/"):
            return False
        if target not in self.tree:
            return self.free(target)
        if not replace or (moved is None) != (there is None) or self.children(target):
            return False
        return there is None or not there.handles

    @rule(path=paths, n=who, pages=st.integers(0, PAGES), overwrite=st.booleans())
    def write_file(self, path: str, n: int, pages: int, overwrite: bool) -> None:
        client, node = self.clients[n], self.nodes[n]
        file = self.tree.get(path)
        ok = self.free(path) or (
            overwrite and file is not None and not file.pending and not self.fenced(file)
        )
        self.flush(n)
        packed = node.extent(0, pages) if pages else b""
        disposition = Disposition.OVERWRITE_IF if overwrite else Disposition.CREATE
        body = m.WriteFile(client.caller(), path, disposition, 0, 4096 * pages, packed, node.log_id)
        if self.twice(client, body, ok):
            if file is None:
                file = self.tree[path] = File(path=path)
            file.size = 4096 * pages
            file.pages = dict.fromkeys(range(pages), (node.log_id, node.sequence))

    @rule(path=paths, n=who, overwrite=st.booleans(), delete=st.booleans())
    def open(self, path: str, n: int, overwrite: bool, delete: bool) -> None:
        client = self.clients[n]
        file = self.tree.get(path)
        ok = self.free(path) or (file is not None and not file.pending and not self.fenced(file))
        guid = client.guid()
        body = m.Open(
            client.caller(), path, RWD if delete else RW, 7,
            Disposition.OVERWRITE_IF if overwrite else Disposition.OPEN_IF,
            OpenOptions.DELETE_ON_CLOSE if delete else 0, guid,
        )  # fmt: skip
        reply = self.twice(client, body, ok)
        if reply is not None:
            if file is None:
                file = self.tree[path] = File(path=path)
            elif overwrite:
                file.size, file.pages = 0, {}
            opened = Opened(reply, file, n, guid, delete)
            file.handles.append(opened)
            self.opened.append(opened)

    def drop(self, opened: Opened) -> None:
        self.opened.remove(opened)
        opened.file.handles.remove(opened)
        opened.file.pending = opened.file.pending or opened.delete
        self.remove_if_done(opened.file)

    @precondition(lambda self: self.opened)
    @rule(data=st.data(), release=st.booleans())
    def close(self, data: st.DataObject, release: bool) -> None:
        opened = data.draw(st.sampled_from(self.opened))
        client = self.clients[opened.client]
        commit = self.commit_of(client.node.incarnation)
        tokens = self.volume.state.tokens_of(opened.reply.info.ino)
        own = [t.generation for t in tokens if t.incarnation == client.node.incarnation]
        body = m.Close(
            client.caller(), opened.reply.handle, opened.reply.generation, commit,
            own[0] if own and release else 0,
        )  # fmt: skip
        if not opened.connected:
            self.volume.run(lambda s: s.apply_commit(commit))
            body.commit = m.Commit()
        if self.twice(client, body, opened.connected):
            self.drop(opened)

    @precondition(lambda self: any(o.connected for o in self.opened))
    @rule(data=st.data(), page=st.integers(0, PAGES), pages=st.integers(1, 4))
    def write(self, data: st.DataObject, page: int, pages: int) -> None:
        """A node gets the token and writes a record, which stays unsent."""
        opened = data.draw(st.sampled_from([o for o in self.opened if o.connected]))
        node, ino = self.nodes[opened.client], opened.reply.info.ino
        tokens = self.volume.state.tokens_of(ino)
        own = self.volume.database.one(
            "SELECT generation FROM token WHERE ino=? AND log_id=? AND mode=2", (ino, node.log_id)
        )
        if own is None:
            self.flush(opened.client)
            grant = self.volume.clear(
                lambda: self.volume.run(
                    lambda s: s.acquire_token(ino, m.TokenMode.DIRECT_RW, node.incarnation)
                )
            )
            window = next(w for w in grant.windows if w.handle == opened.reply.handle)
            assert window.watermark == opened.window + 1
            token = grant.generation
        else:
            assert [t.incarnation for t in tokens] == [node.incarnation]
            token = own[0]
        opened.window += 1
        record = node.record(
            ino, page, pages, handle=opened.reply.handle, generation=opened.reply.generation,
            op_sequence=opened.window, token=token,
        )  # fmt: skip
        self.records[node.incarnation].append((opened, record))
        opened.file.size = max(opened.file.size, 4096 * (page + pages))
        opened.file.pages |= dict.fromkeys(range(page, page + pages), (node.log_id, record[1]))

    @rule(n=who)
    def flush(self, n: int) -> None:
        commit = self.commit_of(self.nodes[n].incarnation)
        for _ in range(2):
            self.volume.run(lambda s: s.apply_commit(commit))

    @precondition(lambda self: any(o.connected for o in self.opened))
    @rule(data=st.data(), pages=st.integers(0, PAGES))
    def truncate(self, data: st.DataObject, pages: int) -> None:
        opened = data.draw(st.sampled_from([o for o in self.opened if o.connected]))
        client = self.clients[opened.client]
        body = m.Truncate(
            client.caller(), opened.reply.handle, opened.reply.generation, 4096 * pages,
            self.commit_of(client.node.incarnation),
        )  # fmt: skip
        assert self.twice(client, body, True).info.size == 4096 * pages
        opened.file.size = 4096 * pages
        opened.file.pages = {p: v for p, v in opened.file.pages.items() if p < pages}

    @precondition(lambda self: any(o.connected for o in self.opened))
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        opened = data.draw(st.sampled_from([o for o in self.opened if o.connected]))
        self.clients[opened.client].disconnect(opened.reply)
        opened.connected = False

    @precondition(lambda self: any(not o.connected for o in self.opened))
    @rule(data=st.data(), expire=st.booleans())
    def settle_disconnected(self, data: st.DataObject, expire: bool) -> None:
        """The client comes back, or its time is over."""
        opened = data.draw(st.sampled_from([o for o in self.opened if not o.connected]))
        handle = opened.reply.handle
        if expire:
            assert self.volume.run(lambda s: s.expire([handle], NOW)) == [handle]
            self.drop(opened)
        else:
            generation = opened.reply.generation
            result = self.clients[opened.client].reclaim(opened.reply, opened.guid)
            assert (result.code, result.generation) == ("", generation + 1)
            opened.connected = True

    @rule(n=who)
    def node_dies(self, n: int) -> None:
        """Its log is sealed and its tail replayed; its handles wait; a new incarnation starts."""
        node = self.nodes[n]
        records = [record for _, record in self.records[node.incarnation]]
        self.records[node.incarnation] = []

        def rules(state: Any) -> list[int]:
            state.replay_tail(node.log_id, records)
            orphans = state.seal_node(node.incarnation, node.sequence)
            assert isinstance(orphans, list)
            return orphans

        orphans = self.volume.run(rules)
        mine = [o for o in self.opened if o.client == n and o.connected]
        assert orphans == sorted(o.reply.handle for o in mine)
        for opened in mine:
            opened.connected = False
        self.nodes[n] = self.clients[n].node = self.new_node()

    def committed(self) -> list[str]:
        """Files with pages, all of them in the tables."""
        return [p for p, f in self.tree.items() if f and f.pages and not self.unsent_to(f)]

    @precondition(lambda self: self.committed())
    @rule(data=st.data())
    def report_damage(self, data: st.DataObject) -> None:
        """Nodes find pages damaged, and tell of one that never was."""
        path = data.draw(st.sampled_from(self.committed()))
        file = self.tree[path]
        inode = self.volume.state._resolve(path)[2]
        assert file is not None
        assert inode is not None
        places = [
            m.CorruptPlace(1, inode.ino, page, 1, log_id, sequence // 8, sequence)
            for page, (log_id, sequence) in [*file.pages.items(), (PAGES + 9, (1, 1))]
            if page % 3 or page > PAGES
        ]
        for _ in range(2):
            self.volume.run(lambda s: s.report_corrupt(places, "n", NOW))
        file.damaged |= {place.page: file.pages[place.page] for place in places[:-1]}

    # What must hold ---------------------------------------------------------------------------

    @invariant()
    def tables_are_whole(self) -> None:
        self.volume.check()

    @invariant()
    def names_are_the_models(self) -> None:
        found = {}
        for ino, directory in self.volume.database.execute("SELECT ino,directory FROM inode"):
            path = self.volume.state.path_of(ino)
            found["" if path == "/" else path] = bool(directory)
        assert found == {path: entry is None for path, entry in self.tree.items()}

    @invariant()
    def pages_are_the_models(self) -> None:
        for path, file in self.tree.items():
            if file is None or self.unsent_to(file):
                continue
            inode = self.volume.state._resolve(path)[2]
            assert inode is not None
            assert (inode.size, bool(inode.pending)) == (file.size, file.pending)
            packed = self.volume.state._packed(inode.ino, 0, 1000)[0]
            pages = {
                run.page + i: (run.log_id, run.sequence)
                for run in unpack_extents(packed)
                for i in range(run.pages)
            }
            assert pages == file.pages

    @invariant()
    def damage_is_the_models(self) -> None:
        """A reported page is told until another record holds it, or none."""
        found = {(p.path, p.page) for p in self.volume.state.list_corrupt().places}
        for path, file in self.tree.items():
            if file is None or self.unsent_to(file):
                continue
            still = {n for n, at in file.damaged.items() if file.pages.get(n) == at}
            assert {n for at, n in found if at == path} == still


TestAuthorityMachine = AuthorityMachine.TestCase
TestAuthorityMachine.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_no_limit_of_time_raises_inside_an_example(request: pytest.FixtureRequest) -> None:
    """See ``pytest_collection_modifyitems``."""
    models = [item for item in request.session.items if "TestAuthorityMachine" in item.nodeid]
    for item in models:
        marker = item.get_closest_marker("timeout")
        assert marker is not None
        assert marker.kwargs == {"method": "thread"}
