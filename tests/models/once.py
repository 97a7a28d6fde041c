"""Exactly once: an operation whose answer was lost is sent again, through whoever serves then.

``Data``: one append of one handle. The client sends it through node A, any copy may be late or
lost, and it may move the handle to node B (a reclaim) and send it there again, or settle it as
never to be executed. Each node executes only what the completed window of its token calls fresh.

| step | code |
|---|---|
| ``sends``, ``sends again`` | ``client/flight.py``: the same handle and op sequence |
| ``A takes a copy`` | ``WriteOp.attempt``: attach, or ``OpWindow.judge`` |
| ``A publishes`` | ``WriteOp.publish`` after sync and check; sealed: the life ends |
| ``A commits`` | ``node/commits.py``: extents and windows together |
| ``A lets go`` | ``Inbound._detach`` and ``_recall``: drained, then settled |
| ``A is sealed``, ``its tail is replayed`` | ``Commits.replay_tail`` with ``_tail_window`` |
| ``the handle is reclaimed`` | ``Handles.reclaim``: generation + 1, window with the grant |
| ``settles`` | ``AbandonOp``: a record of its own, or what the window says |

``Names``: one mutation at the authority, for instance a rename. Its result stands in the table of
results, in the same transaction as its effect; the group is logged before anybody is answered. The
authority may be taken over at any moment. The row of a client that was idle for CLIENT_KEEP_MS is
dropped. (The first op id of a client, which makes the row, is its registration and has no effect:
the client's ``Session`` takes it before all others. The model's operation is a later one.)

| step | code |
|---|---|
| ``runs`` | ``ActiveAuthority._once``: ``exactly_once`` inside ``GroupLog.transaction`` |
| ``logs the group`` | ``GroupLog._flush`` |
| ``answers`` | ``GroupLog.settled``, then the reply |
| ``another authority`` | ``AuthorityPart._take_over``: what was logged |
| ``forgets the client`` | ``IdleClients.forget`` |
| ``refuses as expired`` | ``ActiveAuthority._admit_client`` |
| ``abandons`` | ``Handles.abandon``: a stored refusal, or the stored result |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, Final, NamedTuple

from .explore import Model

ONCE: Final = "at most one effect"
ACKED: Final = "an answered operation took effect"
NEVER: Final = "settled as never, never executed"

FRESH: Final = 0
DONE: Final = 1
ABANDONED: Final = 2


class Node(NamedTuple):
    bound: bool = False  # The handle is connected through it, under a token.
    window: int = FRESH
    flight: int = 0  # Records of the operation that are appended and not published.
    settling: bool = False  # A record that abandons it is.
    committed: bool = True
    sealed: bool = False


class DataState(NamedTuple):
    a: Node
    b: Node
    copies: frozenset[str]  # On their way, to "A" or "B".
    stored: int  # The window in the tables.
    place: str  # Where the authority has the handle: "A", "", "B".
    effects: int
    client: str  # "waits", "answered", "never".
    sends: int


class Data(Model[DataState]):
    """See the module."""

    name = "once: data"
    variants: ClassVar[Mapping[str, str]] = {
        "the window does not travel with the token": NEVER,
        "a commit brings no windows": ONCE,
        "tail replay settles no windows": NEVER,
        "executed while an earlier copy is in flight": ONCE,
        "a reclaim does not wait for the older node": NEVER,
        "an abandonment is not recorded": NEVER,
    }

    def initial(self) -> Iterable[DataState]:
        yield DataState(Node(True), Node(), frozenset("A"), FRESH, "A", 0, "waits", 2)

    def invariants(self) -> Mapping[str, Callable[[DataState], bool]]:
        return {
            ONCE: lambda state: state.effects <= 1,
            ACKED: lambda state: state.client != "answered" or state.effects >= 1,
            NEVER: lambda state: state.client != "never" or state.effects == 0,
        }

    def goals(self) -> Mapping[str, Callable[[DataState], bool]]:
        return {"the client knows": lambda state: state.client != "waits"}

    def actions(self, state: DataState) -> Iterator[tuple[str, DataState]]:
        if state.client == "waits" and state.sends:
            for node in "AB":
                again = state._replace(copies=state.copies | {node}, sends=state.sends - 1)
                yield f"the client sends again to {node}", again
        yield from self.node(state, "A", state.a)
        yield from self.node(state, "B", state.b)
        yield from self.move(state)

    def put(self, state: DataState, name: str, node: Node) -> DataState:
        return state._replace(a=node) if name == "A" else state._replace(b=node)

    def node(self, state: DataState, name: str, node: Node) -> Iterator[tuple[str, DataState]]:
        if name in state.copies and node.bound:
            # A copy is not used up: another one of it may come later. Each may be the last.
            for left in (state, state._replace(copies=state.copies - {name})):
                yield from self.take(left, name, node)
        if node.flight or node.settling:
            yield f"{name} publishes", self.publish(state, name, node)
        if node.bound and not node.committed and not node.sealed:
            stored = state.stored if self.variant == "a commit brings no windows" else node.window
            after = self.put(state, name, node._replace(committed=True))
            yield f"{name} commits", after._replace(stored=stored)
        if node.bound and state.client == "waits" and not node.settling:
            yield from self.settle(state, name, node)

    def take(self, state: DataState, name: str, node: Node) -> Iterator[tuple[str, DataState]]:
        doubled = self.variant == "executed while an earlier copy is in flight"
        if (node.flight or node.settling) and not (doubled and node.flight < 2):
            return  # Attached to the one in flight.
        if node.window == DONE and not node.sealed and state.client == "waits":
            yield f"{name} answers a copy", state._replace(client="answered")
        elif node.window == FRESH:
            after = self.put(state, name, node._replace(flight=node.flight + 1))
            yield f"{name} takes a copy and appends", after

    def publish(self, state: DataState, name: str, node: Node) -> DataState:
        if node.sealed:
            return self.put(state, name, Node(sealed=True))
        client = state.client
        if node.settling:
            after = node._replace(settling=False, window=ABANDONED, committed=False)
            client = "never" if client == "waits" else client
            return self.put(state, name, after)._replace(client=client)
        after = node._replace(flight=node.flight - 1, window=DONE, committed=False)
        client = "answered" if client == "waits" else client
        return self.put(state, name, after)._replace(effects=state.effects + 1, client=client)

    def settle(self, state: DataState, name: str, node: Node) -> Iterator[tuple[str, DataState]]:
        """The client gives up and asks that it be never executed."""
        if node.flight or node.sealed:
            return  # Attached: answered together with what is in flight. Sealed: no answer.
        if node.window == DONE:
            yield f"the client settles through {name}", state._replace(client="answered")
        elif node.window == ABANDONED or self.variant == "an abandonment is not recorded":
            yield f"the client settles through {name}", state._replace(client="never")
        else:
            after = self.put(state, name, node._replace(settling=True))
            yield f"the client settles through {name}", after

    # The handle moves from A to B -------------------------------------------------------------

    def move(self, state: DataState) -> Iterator[tuple[str, DataState]]:
        a = state.a
        drained = not a.flight and not a.settling and a.committed
        if self.variant == "a reclaim does not wait for the older node":
            drained = True
        if state.place == "A":
            if a.bound and drained and not a.sealed:
                left = a if self.variant.startswith("a reclaim") else Node()
                yield "A lets go of the handle", state._replace(a=left, place="")
            if not a.sealed:
                yield "A is sealed", state._replace(a=a._replace(sealed=True))
            else:
                yield "the tail of A is replayed", self.replay(state, a)
        elif state.place == "":
            fresh = self.variant == "the window does not travel with the token"
            window = FRESH if fresh else state.stored
            yield "the handle is reclaimed at B", state._replace(b=Node(True, window), place="B")

    def replay(self, state: DataState, a: Node) -> DataState:
        """Records above what was committed take effect, those that A never published, too."""
        stored = state.stored
        if self.variant != "tail replay settles no windows":
            if not a.committed:
                stored = a.window
            if a.flight:
                stored = DONE
            elif a.settling:
                stored = ABANDONED
        dead = Node(sealed=True)
        return state._replace(a=dead, stored=stored, place="", effects=state.effects + a.flight)


class Authority(NamedTuple):
    """What a database holds. ``result``: of the operation."""

    known: bool = True
    result: int = FRESH
    effects: int = 0


class NamesState(NamedTuple):
    memory: Authority
    log: Authority
    in_flight: Authority | None  # The group on its way to the log.
    waiting: bool  # A reply that waits for a group.
    client: str
    takeovers: int
    forgets: int


class Names(Model[NamesState]):
    """See the module."""

    name = "once: names"
    variants: ClassVar[Mapping[str, str]] = {
        "results are not in the log": ONCE,
        "answered before the group is logged": ACKED,
        "an expired client's operation is executed as new": ONCE,
        "an abandonment is not recorded": NEVER,
    }

    def initial(self) -> Iterable[NamesState]:
        yield NamesState(Authority(), Authority(), None, False, "waits", 2, 1)

    def invariants(self) -> Mapping[str, Callable[[NamesState], bool]]:
        return {
            ONCE: lambda state: state.memory.effects <= 1,
            ACKED: lambda state: state.client != "answered" or state.memory.effects >= 1,
            NEVER: lambda state: state.client != "never" or state.memory.effects == 0,
        }

    def goals(self) -> Mapping[str, Callable[[NamesState], bool]]:
        return {"the client knows": lambda state: state.client != "waits"}

    def actions(self, state: NamesState) -> Iterator[tuple[str, NamesState]]:
        memory = state.memory
        # A copy of the operation may arrive at any moment, after the answer too.
        expired = self.variant == "an expired client's operation is executed as new"
        if not memory.known and not expired:
            if state.client == "waits":
                yield "refuses as expired", state._replace(client="expired")
        elif memory.result == FRESH:
            yield "runs", self.run(state)
        yield from self.group(state)
        if memory.result != FRESH and self.settled(state) and state.client == "waits":
            client = "answered" if memory.result == DONE else "never"
            yield "answers", state._replace(client=client)
        if state.client == "waits" and memory.known and memory.result == FRESH:
            yield "abandons", self.abandon(state)
        if state.takeovers:
            after = state._replace(memory=state.log, in_flight=None, takeovers=state.takeovers - 1)
            yield "another authority takes over", after
            if state.in_flight is not None:
                late = after._replace(memory=state.in_flight, log=state.in_flight)
                yield "another authority takes over and adopts the group", late
        if state.forgets and memory.known:
            gone = memory._replace(known=False, result=FRESH)
            yield "forgets the client", state._replace(memory=gone, forgets=0)

    def run(self, state: NamesState) -> NamesState:
        memory = state.memory._replace(known=True, result=DONE, effects=state.memory.effects + 1)
        client = state.client
        if self.variant == "answered before the group is logged" and client == "waits":
            client = "answered"
        return state._replace(memory=memory, client=client)

    def abandon(self, state: NamesState) -> NamesState:
        if self.variant == "an abandonment is not recorded":
            return state._replace(client="never")
        return state._replace(memory=state.memory._replace(result=ABANDONED))

    def settled(self, state: NamesState) -> bool:
        return self.kept(state.memory) == state.log and state.in_flight is None

    def kept(self, memory: Authority) -> Authority:
        """What of a database the log holds."""
        if self.variant == "results are not in the log":
            return memory._replace(result=FRESH)
        return memory

    def group(self, state: NamesState) -> Iterator[tuple[str, NamesState]]:
        if state.in_flight is not None:
            yield "logs the group", state._replace(log=state.in_flight, in_flight=None)
        elif not self.settled(state):
            yield "writes the group", state._replace(in_flight=self.kept(state.memory))
