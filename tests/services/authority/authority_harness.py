"""A volume for tests: AuthorityState with clients, nodes, and a follower fed by changesets."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sofs.core import messages as m
from sofs.core.extents import pack_extent
from sofs.core.record import DataHeader, DataOp
from sofs.services.authority.blocked import Blocked
from sofs.services.authority.schema import SCHEMA
from sofs.services.authority.state import AuthorityState
from sofs.storage.state import ApswState

NOW = 1_700_000_000_000_000_000
RW = m.Access.READ | m.Access.WRITE
RWD = RW | m.Access.DELETE


def dump(database: ApswState) -> list[tuple[str, list[Any]]]:
    tables = [r[0] for r in database.execute("SELECT name FROM sqlite_schema WHERE type='table'")]
    return [(t, list(database.execute(f"SELECT * FROM {t} ORDER BY 1,2"))) for t in tables]


class PickleCodec:
    def encode(self, body: m.Message) -> bytes:
        return pickle.dumps(body)

    def decode(self, data: bytes) -> m.Message:
        reply = pickle.loads(data)
        assert isinstance(reply, m.Message)
        return reply


class Node:
    """A node's own view: its log, what is unsent, its tokens."""

    def __init__(self, volume: Volume, name: str) -> None:
        self.volume = volume
        self.incarnation = name.encode().ljust(16, b"-")
        reply = volume.run(
            lambda s: s.register_node(
                m.RegisterNode(name, self.incarnation, f"{name}:1", b"nonce-" + name.encode())
            )
        )
        self.log_id: int = reply.log_id
        self.sequence = 0
        self.sent = 0
        self.sizes: dict[int, int] = {}
        self.tokens: dict[int, int] = {}  # ino -> generation

    def extent(self, page: int, pages: int = 1, *, detached: bool = True) -> bytes:
        """Write a record of whole pages; return its packed extent."""
        self.sequence += 1
        return pack_extent(
            page, self.log_id, self.sequence // 8, self.sequence, 4096 * self.sequence,
            [self.sequence] * pages,
        )  # fmt: skip

    def record(
        self, ino: int, page: int, pages: int = 1, *, handle: int = 0, generation: int = 1,
        op_sequence: int = 1, token: int = 0, op: DataOp = DataOp.WRITE, flags: int = 0,
        length: int = 0,
    ) -> tuple[DataHeader, int, int, int, list[int]]:  # fmt: skip
        """Write a record; return it as tail replay takes it."""
        self.sequence += 1
        offset = 4096 * page
        length = length or 4096 * pages
        header = DataHeader(
            ino, offset, length, generation, handle, op_sequence, token, offset, page,
            NOW + self.sequence, op, flags,
        )  # fmt: skip
        sums = [] if op is DataOp.ABANDON else [self.sequence] * pages
        return header, self.sequence, self.sequence // 8, 4096 * self.sequence, sums

    def commit(self, *files: m.FileCommit) -> m.Commit:
        """Everything since the last commit, as a batch; the caller says what it holds."""
        commit = m.Commit(self.log_id, self.sent, self.sequence, list(files))
        self.sent = self.sequence
        return commit


class Volume:
    """A formatted volume. ``run`` makes one transaction; ``do`` clears what blocks, like the
    service."""

    def __init__(self) -> None:
        self.database = ApswState.create(SCHEMA)
        self.follower = ApswState.create(SCHEMA)
        self.state = AuthorityState(self.database, PickleCodec())
        self.now = NOW
        self.nodes: dict[bytes, Node] = {}
        self.run(lambda s: s.format(b"v" * 16, NOW))
        self.recalled: list[Any] = []
        self.unsent: Callable[[bytes], m.Commit] = lambda incarnation: m.Commit()

    def check(self) -> None:
        """All invariants hold, and a follower that got the changesets has the same tables."""
        self.state.check()
        self.follower.apply_changesets([self.database.take_changeset()])
        assert dump(self.follower) == dump(self.database)

    def close(self) -> None:
        self.database.close()
        self.follower.close()

    def run(self, rules: Callable[[AuthorityState], Any]) -> Any:
        with self.database.transaction():
            return rules(self.state)

    def node(self, name: str) -> Node:
        node = Node(self, name)
        self.nodes[node.incarnation] = node
        return node

    def once(self, caller: m.Caller, rules: Callable[[AuthorityState], Any]) -> Any:
        """Run a mutation as the service does: stored answer, else rules and store."""

        def exactly_once(state: AuthorityState) -> Any:
            stored = state.recall_result(caller)
            if stored is not None:
                return stored
            reply = rules(state)
            stored_form = replace(reply, grant=None) if isinstance(reply, m.OpenReply) else reply
            state.store_result(caller, stored_form)
            return reply

        return self.clear(lambda: self.run(exactly_once))

    def clear(self, attempt: Callable[[], Any]) -> Any:
        for _ in range(8):
            try:
                return attempt()
            except Blocked as blocked:
                for token in blocked.recall:
                    self.recalled.append(token)
                    commit = self.unsent(token.incarnation)
                    self.run(lambda s, t=token, c=commit: s.token_returned(*t, c))
                for handle in blocked.detach:
                    commit = self.unsent(handle.incarnation)
                    self.run(lambda s, h=handle, c=commit: s.detached([h.handle], h.incarnation, c))
                if blocked.release:
                    self.run(lambda s, b=blocked: s.expire(b.release, NOW))
        raise AssertionError("blocked for ever")

    def client(self, name: str, node: Node, principal: str = "alice") -> Client:
        return Client(self, name, node, principal)


class Client:
    """Sends operations through one node at a time, with op ids of its own."""

    def __init__(self, volume: Volume, name: str, node: Node, principal: str) -> None:
        self.volume = volume
        self.node = node
        self.id = name.encode().ljust(16, b".")
        self.principal = principal
        self.op_id = 0
        self.guids = 0
        self.acknowledges = True
        volume.run(lambda s: s.register_client(self.id, principal))

    def caller(self) -> m.Caller:
        self.op_id += 1
        acked_below = self.op_id if self.acknowledges else 0
        return m.Caller(self.id, self.principal, self.op_id, acked_below)

    def guid(self) -> bytes:
        self.guids += 1
        return self.id[:8] + self.guids.to_bytes(8, "big")

    def send(self, body: Any) -> Any:
        """Run a mutation exactly once through the client's node."""
        state, inc, now = self.volume.state, self.node.incarnation, self.volume.now
        by_node = {
            m.Open: state.open, m.Close: state.close, m.Truncate: state.truncate,
            m.SetInfo: state.set_info, m.WriteFile: state.write_file,
        }  # fmt: skip
        by_name = {
            m.Mkdir: state.mkdir, m.Rmdir: state.rmdir, m.Unlink: state.unlink,
            m.Rename: state.rename,
        }  # fmt: skip
        locks = {m.Lock: state.lock, m.Unlock: state.unlock}
        kind = type(body)
        if kind in by_node:
            return self.volume.once(body.caller, lambda s: by_node[kind](body, inc, now))
        if kind in by_name:
            return self.volume.once(body.caller, lambda s: by_name[kind](body, now))
        return self.volume.once(body.caller, lambda s: locks[kind](body, inc))

    def open(
        self, path: str, access: int = RW, share: int = 7,
        disposition: m.Disposition = m.Disposition.OPEN_IF, options: int = 0, **more: Any,
    ) -> m.OpenReply:  # fmt: skip
        more.setdefault("create_guid", self.guid())
        reply = self.send(
            m.Open(
                caller=self.caller(), path=path, access=access, share=share,
                disposition=disposition, options=options, **more,
            )
        )  # fmt: skip
        assert isinstance(reply, m.OpenReply)
        return reply

    def close(self, reply: m.OpenReply, **more: Any) -> m.InfoReply:
        return self.send(m.Close(self.caller(), reply.handle, reply.generation, **more))

    def stat(self, path: str) -> m.FileInfo:
        reply, _ = self.volume.run(
            lambda s: s.stat(m.Stat(path, caller=self.caller()), self.node.incarnation)
        )
        return reply.info

    def names(self, path: str) -> list[str]:
        reply = self.volume.run(lambda s: s.read_dir(m.ReadDir(path)))
        return [entry.name for entry in reply.entries]

    def mkdir(self, path: str) -> m.InfoReply:
        return self.send(m.Mkdir(self.caller(), path))

    def rmdir(self, path: str) -> None:
        self.send(m.Rmdir(self.caller(), path))

    def unlink(self, path: str) -> None:
        self.send(m.Unlink(self.caller(), path))

    def rename(self, source: str, target: str, replace: bool = False) -> None:
        self.send(m.Rename(self.caller(), source, target, replace))

    def lock(self, reply: m.OpenReply, *ranges: m.LockRange) -> None:
        self.send(m.Lock(self.caller(), reply.handle, reply.generation, list(ranges)))

    def unlock(self, reply: m.OpenReply, *ranges: m.LockRange) -> None:
        self.send(m.Unlock(self.caller(), reply.handle, reply.generation, list(ranges)))

    def write_file(
        self, path: str, pages: int = 1, disposition: m.Disposition = m.Disposition.CREATE
    ) -> m.InfoReply:
        packed = self.node.extent(0, pages) if pages else b""
        return self.send(
            m.WriteFile(
                self.caller(), path, disposition, 0, 4096 * pages, packed, self.node.log_id, 0,
                m.Commit(),
            )
        )  # fmt: skip

    def reclaim(self, reply: m.OpenReply, guid: bytes, node: Node | None = None) -> m.ReclaimResult:
        """Reclaim one handle through a node, which becomes the client's."""
        self.node = node or self.node
        items = [m.ReclaimItem(reply.handle, guid)]
        caller = self.caller()
        answer = self.volume.clear(
            lambda: self.volume.run(lambda s: s.reclaim(caller, items, self.node.incarnation))
        )
        result = answer.results[0]
        assert isinstance(result, m.ReclaimResult)
        if not result.code:
            reply.generation = result.generation
        return result

    def disconnect(self, *replies: m.OpenReply) -> None:
        bound = [m.BoundHandle(r.handle, r.generation) for r in replies]
        self.volume.run(lambda s: s.disconnect(bound, self.node.incarnation))
