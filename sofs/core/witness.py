"""The rules of a witness (after MS-SWN): what it believes of other nodes, who asked to be told, and
what to tell whom.

A witness runs beside one node and watches the others. A client that uses node A registers with a
witness elsewhere for A's address, and keeps one AsyncNotify outstanding. The witness answers it
when A is gone, when A is back, or when an administrator wants the client to move.

Why it is safe. A witness's word decides nothing: no claim, no seal, no handle depends on it. A
wrong word costs its clients one failover; a missing one costs them the time that their own silence
limit takes. So the rules here only weigh speed against needless failovers:

- A reset stream *and* a refused reconnect, or another incarnation at the address, is UNAVAILABLE at
  once: the process that the clients used is certainly gone.
- Silence is UNAVAILABLE after a limit. A node that was only slow, so that twice the limit would
  have spared its clients, gets twice the limit until SUSPICION_FORGET_MS passed without such a
  mistake; never more, since a node that is frozen in earnest must be passed within a second.
- The watcher's own stall is not the node's silence: after one, every node gets its limit anew.
- A registration for a node that this witness does not reach is refused. The client, who uses that
  node, knows better; were it told to leave instead, a witness cut off from everybody would chase
  its clients from node to node.

Moves. A client that is told to move says what became of it (``MoveOutcome``); the moves that wait
for that are the part's, not ours. What an administrator asks for is told like any other change: a
client that does not listen now finds it in its queue.

Notifications that nobody asks for queue on their registration, one answer each, so that
"unavailable" and "available" are two answers in that order. A queue over its limit ends the
registration: the client is told NOT_FOUND and registers anew.

Pure: ``now_ms`` and contexts come in, answers go out. ``Asker`` is whatever the caller needs to
send an answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Generic, TypeVar

from sofs.constants import (
    HEARTBEAT_MS,
    SILENCE_MS,
    SUSPICION_FORGET_MS,
)
from sofs.core.messages import (
    Interface,
    MoveClients,
    Notification,
    RegisterWitness,
    WitnessedClient,
)
from sofs.errors import (
    DeadlineExceeded,
    InvalidParameter,
    InvalidState,
    LimitExceeded,
    NotFound,
    RevisionMismatch,
    SofsError,
)

VERSION: Final = 0x00020000
VERSION_1: Final = 0x00010001  # Of MS-SWN's first method, RegisterWitnessV1.
UNKNOWN: Final = 0
AVAILABLE: Final = 1
UNAVAILABLE: Final = 255
IPV4_VALID: Final = 1
IPV6_VALID: Final = 2
MAY_WITNESS: Final = 4
IP_NOTIFICATION: Final = 1  # The only flag of a registration.
RESOURCE_CHANGE: Final = 1
CLIENT_MOVE: Final = 2
SHARE_MOVE: Final = 3

UNUSED_MS: Final = 30_000  # A registration that nobody listens to lasts keep-alive + this.
KEEP_ALIVE_S_MAX: Final = 3600
REGISTRATIONS_MAX: Final = 16_384  # A witness.
OWNER_REGISTRATIONS_MAX: Final = 64  # A stream.
NOTIFICATIONS_MAX: Final = 32  # Queued on one registration.
CLIENT_NAME_CHARS_MAX: Final = 256
LISTED_MAX: Final = 2_048  # In one answer to an administrator.
OWN_STALL_MS: Final = 2 * HEARTBEAT_MS + 50  # A gap in our own beat: we were not running.

SLOW_SILENCE_MS: Final = 2 * SILENCE_MS  # Of a node that was slow lately.

assert OWN_STALL_MS < SILENCE_MS
assert SLOW_SILENCE_MS + HEARTBEAT_MS < 1000, "a frozen node must be passed within a second (G6)"

Asker = TypeVar("Asker")
Answer = tuple[Asker, Notification | SofsError]


# Places
# ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """One node of the access point, and the witness on its host ("" if there is none)."""

    node: str
    witness: str


def host_of(address: str) -> str:
    """The host of ``host:port``, an IPv6 one without brackets."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def pair(nodes: Sequence[str], witnesses: Sequence[str]) -> list[Place]:
    """Put each node beside the witness of its host; several on one host pair in order."""
    free: dict[str, deque[str]] = {}
    for witness in witnesses:
        free.setdefault(host_of(witness), deque()).append(witness)
    places = []
    for node in dict.fromkeys(nodes):
        beside = free.get(host_of(node))
        places.append(Place(node, beside.popleft() if beside else ""))
    return places


def interface_of(place: Place, *, name: str, state: int, own: bool) -> Interface:
    """The interface list's entry of a place. ``own``: the one who answers is here, so that its
    witness would die with the node in use."""
    host = host_of(place.witness or place.node)
    v6 = ":" in host
    flags = IPV6_VALID if v6 else IPV4_VALID
    if place.witness and not own:
        flags |= MAY_WITNESS
    return Interface(
        node=name or place.node,
        version=VERSION,
        state=state,
        ipv4="" if v6 else host,
        ipv6=host if v6 else "",
        flags=flags,
        port=int(place.witness.rpartition(":")[2]) if place.witness else 0,
    )


def configured_interfaces(
    nodes: Sequence[str], witnesses: Sequence[str], own_node: str
) -> list[Interface]:
    """The interface list as a node gives it, who watches nobody: all as configured, beginning after
    itself, so that the clients of different nodes prefer different witnesses. A witness that is not
    there refuses, and the client takes the next."""
    places = pair(nodes, witnesses)
    own = [i for i, place in enumerate(places) if place.node == own_node]
    start = own[0] + 1 if own else 0
    return [
        interface_of(place, name="", state=AVAILABLE, own=place.node == own_node)
        for place in [*places[start:], *places[:start]]
    ]


# What is believed of one node
# --------------------------------------------------------------------------------


class NodeView:
    """One watched node. Each event returns the states to announce, in order, mostly none."""

    def __init__(self, now_ms: int) -> None:
        self.state = UNKNOWN
        self.incarnation = b""
        self.mistakes = 0  # Verdicts that twice the limit would have spared.
        self._limit_ms = SILENCE_MS
        self._heard_ms = now_ms
        self._mistaken_ms = now_ms

    @property
    def limit_ms(self) -> int:
        """How long it may be silent."""
        return self._limit_ms

    def connected(self, now_ms: int, incarnation: bytes) -> list[int]:
        """A stream to it was opened and ``incarnation`` greeted us."""
        announce = []
        if self.incarnation and incarnation != self.incarnation and self.state != UNAVAILABLE:
            announce.append(self._turn(UNAVAILABLE))
        elif self.state == UNAVAILABLE and incarnation == self.incarnation:
            self._returned(now_ms)
        self.incarnation = incarnation
        self._heard_ms = now_ms
        if self.state != AVAILABLE:
            announce.append(self._turn(AVAILABLE))
        return announce

    def refused(self) -> list[int]:
        """No stream stands, and its host says that nobody listens."""
        return [] if self.state == UNAVAILABLE else [self._turn(UNAVAILABLE)]

    def stalled(self, now_ms: int) -> None:
        """We were not running for a while: what was not heard meanwhile means nothing."""
        self._heard_ms = max(self._heard_ms, now_ms)

    def beat(self, now_ms: int, last_heard_ms: int) -> list[int]:
        """Judge what was heard so far. ``last_heard_ms``: of the standing stream, 0 without one."""
        if now_ms - self._mistaken_ms >= SUSPICION_FORGET_MS:
            self._limit_ms = SILENCE_MS
        heard_anew = last_heard_ms > self._heard_ms
        if self.state == UNAVAILABLE and heard_anew:
            self._returned(last_heard_ms)
        self._heard_ms = max(self._heard_ms, last_heard_ms)
        if self.state == UNAVAILABLE:
            return [self._turn(AVAILABLE)] if heard_anew else []
        if now_ms - self._heard_ms > self._limit_ms:
            return [self._turn(UNAVAILABLE)]
        return []

    def _returned(self, heard_ms: int) -> None:
        if heard_ms - self._heard_ms <= SLOW_SILENCE_MS:
            self.mistakes += 1
            self._mistaken_ms = heard_ms
            self._limit_ms = SLOW_SILENCE_MS

    def _turn(self, state: int) -> int:
        self.state = state
        return state


# Who is to be told
# -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Registration(Generic[Asker]):
    """One client's wish to hear of one node. ``number``: its witness counts them, from 1."""

    number: int
    owner: object
    context: bytes
    client_name: str
    share_name: str
    address: str
    keep_alive_ms: int
    used_ms: int
    flags: int = 0
    version: int = VERSION
    asker: Asker | None = None
    queue: deque[Notification] = field(default_factory=deque)
    sent: int = 0


class WitnessRegistry(Generic[Asker]):
    """What one witness believes and whom it tells. ``own_node``: the address of the node beside it,
    which it does not watch. ``has_share``: is there a share of that name? ``net_name``: of the
    cluster; a client that gives one must mean this one."""

    def __init__(
        self,
        places: Sequence[Place],
        *,
        own_node: str,
        has_share: Callable[[str], bool],
        net_name: str = "",
    ) -> None:
        self._places = list(places)
        self.own_node = own_node
        self._has_share = has_share
        self.net_name = net_name
        self._states = {place.node: UNKNOWN for place in places}
        self._names: dict[str, str] = {}
        if own_node in self._states:
            self._states[own_node] = AVAILABLE
        self._registrations: dict[bytes, Registration[Asker]] = {}
        self._by_owner: dict[object, dict[bytes, None]] = {}
        self._numbered = 0

    # Nodes

    def watched(self) -> list[str]:
        """The addresses of the nodes to watch: all but the own one."""
        return [place.node for place in self._places if place.node != self.own_node]

    def state(self, node: str) -> int:
        return self._states.get(node, UNKNOWN)

    def interfaces(self) -> list[Interface]:
        return [
            interface_of(
                place,
                name=self._names.get(place.node, ""),
                state=self._states[place.node],
                own=place.node == self.own_node,
            )
            for place in self._places
        ]

    def has_candidate(self) -> bool:
        """True when some other node is available and has a witness: else an asked interface list
        waits (MS-SWN: the answer is delayed until there is one)."""
        return any(i.state == AVAILABLE and i.flags & MAY_WITNESS for i in self.interfaces())

    def turned(self, now_ms: int, node: str, state: int, name: str = "") -> list[Answer[Asker]]:
        """The node's state is ``state`` now; returns what to answer to whom."""
        self._names[node] = name or self._names.get(node, "")
        before, self._states[node] = self._states[node], state
        if before == state or (before, state) == (UNKNOWN, AVAILABLE):
            return []
        notice = Notification(RESOURCE_CHANGE, state, self._names[node] or node, node)
        concerned = [r for r in self._registrations.values() if r.address == node]
        return self._tell(now_ms, concerned, notice)

    # Registrations

    def __len__(self) -> int:
        return len(self._registrations)

    def registrations(self) -> list[Registration[Asker]]:
        return list(self._registrations.values())

    def check(self, request: RegisterWitness, version: int = VERSION) -> None:
        """Raise why ``request`` can never be served: RevisionMismatch, InvalidParameter,
        InvalidState. ``version``: of the method that was called."""
        if request.version != version:
            raise RevisionMismatch(
                f"witness protocol {request.version:#x}; this method is of {version:#x}"
            )
        if not 0 < len(request.client_name) <= CLIENT_NAME_CHARS_MAX:
            raise InvalidParameter(f"client_name: 1 to {CLIENT_NAME_CHARS_MAX} characters")
        if not request.address:
            raise InvalidParameter("address: give the address of the node that you use")
        if request.net_name.lower() != self.net_name.lower():
            raise InvalidParameter(
                f"net_name {request.net_name!r}; this cluster's is {self.net_name!r}, as the "
                "interface list says"
            )
        if request.flags & ~IP_NOTIFICATION:
            raise InvalidParameter(f"flags {request.flags:#x}; only {IP_NOTIFICATION:#x} is known")
        if request.keep_alive_s > KEEP_ALIVE_S_MAX:
            raise InvalidParameter(f"keep_alive_s: 0 to {KEEP_ALIVE_S_MAX}")
        if request.share_name and not self._has_share(request.share_name):
            raise InvalidState(f"there is no share {request.share_name!r}; `sofs share ls`")
        if request.address not in self._states:
            raise InvalidState(
                f"{request.address} is no node of this access point; ask for the interface list"
            )
        if request.address == self.own_node:
            raise InvalidState(
                "this witness is on that node's host and would die with it; choose another witness"
            )

    def register(
        self,
        now_ms: int,
        owner: object,
        context: bytes,
        request: RegisterWitness,
        version: int = VERSION,
    ) -> None:
        """Take a registration under a fresh secret ``context``; it ends with ``owner`` (a stream).

        Raises what ``check`` raises, InvalidState while the node is not reached from here, and
        LimitExceeded."""
        self.check(request, version)
        if self._states[request.address] == UNAVAILABLE:
            raise InvalidState(
                f"this witness does not reach {request.address}; choose another witness"
            )
        if len(self._registrations) >= REGISTRATIONS_MAX:
            raise LimitExceeded(
                f"{REGISTRATIONS_MAX} registrations; choose another witness", retry_after_ms=1000
            )
        owned = self._by_owner.setdefault(owner, {})
        if len(owned) >= OWNER_REGISTRATIONS_MAX:
            raise LimitExceeded(
                f"{OWNER_REGISTRATIONS_MAX} registrations of one stream; unregister one first"
            )
        owned[context] = None
        self._numbered += 1
        self._registrations[context] = Registration(
            self._numbered,
            owner,
            context,
            request.client_name,
            request.share_name,
            request.address,
            request.keep_alive_s * 1000,
            now_ms,
            request.flags,
            request.version,
        )

    def ask(self, now_ms: int, owner: object, context: bytes, asker: Asker) -> list[Answer[Asker]]:
        """AsyncNotify: answered now if something is queued, else later. A second one takes the
        place of the first, which is answered as if its keep-alive had passed. Raises NotFound."""
        registration = self._registrations.get(context)
        if registration is None or registration.owner is not owner:
            raise NotFound("there is no such registration (any more); register again")
        answers: list[Answer[Asker]] = []
        if registration.asker is not None:
            answers.append((registration.asker, _keep_alive_passed()))
        registration.asker, registration.used_ms = asker, now_ms
        if registration.queue:
            answers.append(self._answer(now_ms, registration, registration.queue.popleft()))
        return answers

    def unregister(self, owner: object, context: bytes) -> list[Answer[Asker]]:
        """Raises InvalidParameter for an unknown context (or a second time)."""
        registration = self._registrations.get(context)
        if registration is None or registration.owner is not owner:
            raise InvalidParameter("context: there is no such registration; nothing to do")
        return self._drop(registration)

    def owner_gone(self, owner: object) -> None:
        """The stream ended: its registrations go, and there is nobody to answer."""
        for context in self._by_owner.pop(owner, {}):
            del self._registrations[context]

    def expire(self, now_ms: int) -> list[Answer[Asker]]:
        """Answer those whose keep-alive passed; forget registrations that nobody listens to."""
        answers: list[Answer[Asker]] = []
        for registration in self.registrations():
            idle_ms = now_ms - registration.used_ms
            if registration.asker is None:
                if idle_ms >= registration.keep_alive_ms + UNUSED_MS:
                    self._drop(registration)
            elif registration.keep_alive_ms and idle_ms >= registration.keep_alive_ms:
                answers.append((registration.asker, _keep_alive_passed()))
                registration.asker, registration.used_ms = None, now_ms
        return answers

    # Moves

    def clients(self, after: int) -> tuple[list[WitnessedClient], int]:
        """LISTED_MAX registrations as administrators see them, those that were made after number
        ``after`` (0: all); and the number after which to go on, 0 if these were the last. Numbers
        grow and stay, whoever leaves meanwhile."""
        rest = (r for r in self._registrations.values() if r.number > after)
        page = list(islice(rest, LISTED_MAX))
        following = page[-1].number if next(rest, None) is not None else 0
        return [self._seen_by_administrators(r) for r in page], following

    def _seen_by_administrators(self, r: Registration[Asker]) -> WitnessedClient:
        return WitnessedClient(
            r.client_name,
            r.share_name,
            r.address,
            self._names.get(r.address, "") or r.address,
            "registered" if r.asker is None else "requested-notification",
            r.flags,
            r.version,
            r.sent,
            len(r.queue),
        )

    def has(self, context: bytes, owner: object | None = None) -> bool:
        """Is there such a registration, of ``owner`` if one is given?"""
        registration = self._registrations.get(context)
        return registration is not None and owner in (None, registration.owner)

    def move(self, now_ms: int, body: MoveClients) -> tuple[dict[bytes, str], list[Answer[Asker]]]:
        """Ask clients to move; see ``MoveClients``. Returns the contexts of the registrations told,
        each with its destination (a client that is there already is not told), and answers.

        InvalidParameter for a destination that is no node, or without exactly one way to say who is
        meant; NotFound for a client by name that is not registered here."""
        for destination in body.destinations or [""]:
            if destination not in self._states:
                raise InvalidParameter(
                    f"destination {destination!r}; choose one of {', '.join(self._states)}"
                )
        named = [body.client_name, body.share_name, body.leaving]
        if sum(map(bool, named)) != 1:
            raise InvalidParameter("give one of client_name, share_name and leaving")
        known = [r for r in self.registrations() if _is_meant(body, r)]
        if body.client_name and not known:
            raise NotFound(
                f"client {body.client_name!r} is not registered here; ask another witness"
            )
        kind = SHARE_MOVE if body.share_name else CLIENT_MOVE
        told: dict[bytes, str] = {}
        answers: list[Answer[Asker]] = []
        for turn, registration in enumerate(known):
            destination = body.destinations[turn % len(body.destinations)]
            if registration.address == destination:
                continue
            told[registration.context] = destination
            name = self._names.get(destination, "") or destination
            notice = Notification(kind, self.state(destination), name, destination)
            answers += self._tell(now_ms, [registration], notice)
        return {c: d for c, d in told.items() if c in self._registrations}, answers

    # Telling

    def _tell(
        self, now_ms: int, registrations: list[Registration[Asker]], notice: Notification
    ) -> list[Answer[Asker]]:
        answers: list[Answer[Asker]] = []
        for registration in registrations:
            if registration.asker is not None:
                answers.append(self._answer(now_ms, registration, notice))
            elif len(registration.queue) >= NOTIFICATIONS_MAX:
                self._drop(registration)
            else:
                registration.queue.append(notice)
        return answers

    def _answer(
        self, now_ms: int, registration: Registration[Asker], notice: Notification
    ) -> Answer[Asker]:
        asker = registration.asker
        assert asker is not None
        registration.asker, registration.used_ms = None, now_ms
        registration.sent += 1
        return asker, notice

    def _drop(self, registration: Registration[Asker]) -> list[Answer[Asker]]:
        del self._registrations[registration.context]
        owned = self._by_owner[registration.owner]
        del owned[registration.context]
        if not owned:
            del self._by_owner[registration.owner]
        if registration.asker is None:
            return []
        return [(registration.asker, NotFound("the registration was ended; register again"))]


def _is_meant(body: MoveClients, registration: Registration[Asker]) -> bool:
    if body.client_name:
        return registration.client_name == body.client_name
    if body.share_name:
        return registration.share_name.lower() == body.share_name.lower()
    return registration.address == body.leaving


def _keep_alive_passed() -> DeadlineExceeded:
    return DeadlineExceeded("nothing happened within the keep-alive time; ask again")
