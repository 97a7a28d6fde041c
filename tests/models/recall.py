"""Tokens: one file that moves between two nodes, whoever dies or is slow.

What is modelled. Node A holds DIRECT_RW of a file and writes it into its own data log; node B wants
to write it, too, and has to wait until the authority has the token back: by A's own answer, or by
A's seal and the replay of its tail. The authority may be taken over at any moment by a successor
that knows what was logged. A's process may start again as another incarnation, which knows nothing.
The file is one register; values only grow, since each write is composed from what its node holds.
A node that takes no step any more is frozen or dead.

| step | code |
|---|---|
| ``A appends`` | ``WriteOp.attempt``: durable in the data log, not yet checked |
| ``A checks and answers`` | ``AppendLog._make_durable`` and ``WriteOp.publish`` (R3, R8) |
| ``A commits`` | ``node/commits.py``: a whole prefix (ADR 0001) |
| ``B asks`` | ``Tokens.acquire_token`` raises ``Blocked(recall)`` |
| ``A hears of the recall`` | ``Inbound._recall``: ``OpenFile.give_back`` admits nothing any more |
| ``A answers the recall`` | drained and settled: ``FileTable.drop_token``, ``CommitReply`` |
| ``the token is free`` | ``Tokens.token_returned`` |
| ``A is sealed`` | ``Nodes._seal``: the claim of epoch 2 of A's data log |
| ``the tail is replayed`` | ``Commits.replay_tail``, ``Handles.seal_node``, in one transaction |
| ``B is granted``, ``logs the grant`` | ``Tokens._grant``, then ``settled``, then the reply (R9) |
| ``another authority`` | ``AuthorityPart._take_over`` |
| ``A registers`` | ``FileTable.registered``: keeps the tokens that the authority names |
| ``a stat`` | ``ActiveAuthority._stat``: the holder is asked (``Nodes.query_size``) |
| ``a client caches`` | a copy that counts from when its read was sent, for the cache term |

The cache term is a design of the client that is not built yet: this product's SDK caches no file
data. The model says what it would have to keep: a writer waits for the term, or for the reader's
word. (``caches``, with a clock whose rate is trusted.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, Final, NamedTuple

from .explore import Model

ACKED: Final = "acknowledged writes stay"
CURRENT: Final = "answers are current"
ONE: Final = "one writer at a time answers"
VALUES: Final = 3


class Node(NamedTuple):
    """A node and its data log. Values are counted up; 0: nothing yet."""

    holds: bool = False
    value: int = 0  # As of its map: published.
    appended: int = 0  # In the log, durable, not answered.
    committed: int = 0  # The newest that the authority has confirmed.
    recalled: bool = False
    sealed: bool = False  # Epoch 2 of its data log is claimed.
    registered: bool = True  # With the authority of now.
    alive: bool = True


class State(NamedTuple):
    a: Node
    b: Node
    holder: str  # In the authority's memory.
    value: int  # The same: what the tables say of the file.
    logged_holder: str  # As a successor will find it.
    logged_value: int
    recall: str  # "": none; "sent"; "answered".
    granting: bool  # B's grant is in memory and has not left.
    cached: int  # What a client caches; -1: nothing.
    term_over: bool
    told: int  # The newest value that was acknowledged to a client.
    given: int  # Values given out.
    takeovers: int
    broken: str


class Recall(Model[State]):
    """See the module."""

    name = "tokens"
    variants: ClassVar[Mapping[str, str]] = {
        "recall answered without drain": ACKED,
        "recall answered before the commit": ACKED,
        "recall answered by the next incarnation": ACKED,
        "token freed by a seal without its tail": ACKED,
        "tail replayed without a seal": ONE,
        "grant sent before it is logged": ONE,
        "stat answered from the tables": CURRENT,
        "zombie reads are not checked": CURRENT,
        "cached reads after the term": CURRENT,
    }

    def initial(self) -> Iterable[State]:
        a = Node(holds=True)
        yield State(a, Node(), "A", 0, "A", 0, "", False, -1, False, 0, 0, 1, "")

    def invariants(self) -> Mapping[str, Callable[[State], bool]]:
        def unbroken(name: str) -> Callable[[State], bool]:
            return lambda state: state.broken != name

        return {name: unbroken(name) for name in (ACKED, CURRENT, ONE)}

    def goals(self) -> Mapping[str, Callable[[State], bool]]:
        return {"B gets the token": lambda state: state.b.holds}

    def actions(self, state: State) -> Iterator[tuple[str, State]]:
        if state.a.alive:
            yield from self.first(state, state.a)
        yield from self.authority(state)
        yield from self.second(state, state.b)
        yield from self.client(state)

    # Node A -----------------------------------------------------------------------------------

    def first(self, state: State, a: Node) -> Iterator[tuple[str, State]]:
        if a.holds and not a.recalled and not a.appended and state.given < VALUES:
            given = state.given + 1
            yield "A appends", state._replace(a=a._replace(appended=given), given=given)
        if a.appended:
            yield "A checks and answers", self.answer(state, a)
        if a.value > a.committed and a.registered and not a.sealed:
            committed = self.logged(state._replace(a=a._replace(committed=a.value)), a.value)
            yield "A commits", committed
        if state.recall == "sent" and not a.recalled:
            yield "A hears of the recall", state._replace(a=a._replace(recalled=True))
        early = self.variant == "recall answered without drain"
        uncommitted = early or self.variant == "recall answered before the commit"
        drained = not a.appended or early
        settled = a.committed == a.value or uncommitted
        if state.recall == "sent" and a.recalled and a.registered and drained and settled:
            after = a._replace(holds=False)
            yield "A answers the recall", state._replace(a=after, recall="answered")
        if not a.registered and not a.sealed:
            yield "A registers", self.register(state, a)
        if a.holds:
            unchecked = self.variant == "zombie reads are not checked"
            if unchecked or not a.sealed:
                stale = a.value < state.told
                yield "A answers a read", state._replace(broken=CURRENT if stale else "")
        if self.variant == "recall answered by the next incarnation" and state.recall == "sent":
            gone = state._replace(a=a._replace(alive=False), recall="answered")
            yield "A starts again and knows of no token", gone

    def answer(self, state: State, a: Node) -> State:
        """The check of R3; if it passes, publish and answer."""
        if a.sealed:
            return state._replace(a=a._replace(alive=False))
        broken = ONE if state.b.holds else ""
        if a.appended <= state.told:
            broken = ONE
        told = max(state.told, a.appended)
        if state.cached >= 0 and not state.term_over and told > state.cached:
            return state  # A writer waits for the readers' terms.
        after = a._replace(value=a.appended, appended=0)
        return state._replace(a=after, told=told, broken=broken)

    def register(self, state: State, a: Node) -> State:
        if state.holder == "A":
            return state._replace(a=a._replace(registered=True))
        return state._replace(a=a._replace(registered=True, holds=False, recalled=False))

    # The authority ----------------------------------------------------------------------------

    def logged(self, state: State, value: int) -> State:
        value = max(value, state.value)
        return state._replace(value=value, logged_value=value)

    def authority(self, state: State) -> Iterator[tuple[str, State]]:
        if state.recall == "answered" and state.holder == "A":
            free = state._replace(holder="", logged_holder="", recall="")
            yield "the token is free", free
        elif state.holder == "A" and state.recall == "":
            yield "B asks: A is recalled", state._replace(recall="sent")
        unsealed = self.variant == "tail replayed without a seal"
        if state.holder == "A" and not state.a.sealed and not unsealed:
            yield "A is sealed", state._replace(a=state.a._replace(sealed=True))
        if state.holder == "A" and (state.a.sealed or unsealed):
            tail = max(state.a.value, state.a.appended)
            if self.variant == "token freed by a seal without its tail":
                tail = 0
            freed = self.logged(state, tail)._replace(holder="", logged_holder="", recall="")
            yield "the tail is replayed", freed
        if state.holder == "" and not state.granting:
            yield "B is granted", state._replace(holder="B", granting=True)
        if state.granting:
            sent = self.granted(state)
            if self.variant == "grant sent before it is logged":
                yield "the grant leaves before it is logged", sent._replace(granting=False)
            else:
                logged = sent._replace(logged_holder="B", granting=False)
                yield "the grant is logged and leaves", logged
        if state.takeovers:
            yield "another authority takes over", self.take_over(state)

    def granted(self, state: State) -> State:
        b = state.b._replace(holds=True, value=state.value, registered=True)
        broken = ACKED if state.value < state.told else ""
        return state._replace(b=b, broken=broken)

    def take_over(self, state: State) -> State:
        """What was not logged is gone. Each node registers anew; a sealed one was sealed."""
        holder = state.logged_holder
        if holder == "" and self.variant == "grant sent before it is logged":
            holder = "A"  # A asked first this time, and is at the newest state that was logged.
            a = state.a._replace(
                holds=True, value=state.logged_value, committed=state.logged_value, sealed=False,
                recalled=False, registered=True, alive=True, appended=0,
            )  # fmt: skip
            return state._replace(
                a=a, holder=holder, logged_holder=holder, value=state.logged_value, recall="",
                granting=False, takeovers=0,
            )  # fmt: skip
        return state._replace(
            a=state.a._replace(registered=False),
            holder=holder,
            value=state.logged_value,
            recall="",
            granting=False,
            takeovers=state.takeovers - 1,
        )

    # Node B and clients -----------------------------------------------------------------------

    def second(self, state: State, b: Node) -> Iterator[tuple[str, State]]:
        if not b.holds:
            return
        if state.given < VALUES:
            value = state.given + 1
            after = state._replace(b=b._replace(value=value), told=value, given=value)
            waits = state.cached >= 0 and not state.term_over
            if not waits:
                yield "B writes and answers", after
        stale = b.value < state.told
        yield "B answers a read", state._replace(broken=CURRENT if stale else "")

    def client(self, state: State) -> Iterator[tuple[str, State]]:
        holder = state.a if state.holder == "A" else state.b
        if self.variant == "stat answered from the tables":
            stale = state.value < state.told
            yield "a stat is answered", state._replace(broken=CURRENT if stale else "")
        elif holder.holds and not holder.sealed:
            # The holder is asked, and checks; sealed, its tail is waited for.
            stale = holder.value < state.told
            yield "a stat is answered", state._replace(broken=CURRENT if stale else "")
        if state.cached < 0 and holder.holds and not holder.sealed and not state.granting:
            yield "a client caches", state._replace(cached=holder.value, term_over=False)
        if state.cached >= 0 and not state.term_over:
            yield "the term is over", state._replace(term_over=True)
        if state.cached >= 0 and (
            not state.term_over or self.variant == "cached reads after the term"
        ):
            stale = state.cached < state.told
            yield "a cached read", state._replace(broken=CURRENT if stale else "")
