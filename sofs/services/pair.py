"""The two-party probe of an append backend: does another part see the names that we make? (R11)

Theory. A successor's claim fences its predecessor because the predecessor's look-up sees the name
at once (R3). One process cannot find out alone whether that holds between it and others: a private
overlay, a copy of the folder and a cache of absent names all keep their word to whoever looks
alone. So a part that joins a volume proves it with a part that serves, before anything is given to
it:

1. ``Meet``: the joining part says where it sees the root. The other looks for the joiner's name,
   which must be absent, makes a name of its own, and says where *it* sees the root.
2. The joiner, who found that name absent before it asked, must see it now, and makes its own name.
   On one host both must name the same device and folder: a copy has another one.
3. ``MeetEnd``, or ``RegisterNode`` with the probe's token: the other, who found the joiner's name
   absent, must see it now.

Names are made and looked up by the calls that claims stand on. Whoever joins is refused, with
BackendRefused: which of two views is the wrong one cannot be told, and the one that serves has
clients.

Who probes, and with whom. A process once; ``passed`` stays. To see each other's names is mutual and
passes on, so any serving part of the volume will do: whoever saw a claim of the view that our peer
has is found in that view only. Nodes probe with the authority, on the stream on which they
register: one round trip more, for the first registration of a process. Followers probe with the
owner whom they follow; who takes over after that does not probe again, so a failover pays nothing.

Nobody serves. A part that is about to claim and never met another one looks for one first: it asks
whoever listens where the highest claim says, and the nodes of the access point (``find_peer``).
Only those count that have passed the probe themselves, so a part that was refused keeps nobody from
serving. If none answers there is no second party, and it claims. That is safe in the view in which
it claims: the first claim decides there, and whoever joins next probes against its owner. In
another view of the same folder (an overlay) the same may happen at the same moment, if no part of
one side reaches any of the other; the allow-list of file systems is what stands against that.

May fail: no answer within MEET_MS_MAX is Unavailable, and a store that errs says so; both mean "not
now", and the caller joins later. A root or a volume that differs is BackendRefused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from sofs.core.messages import Done, Hello, Meet, MeetEnd, Message, Met
from sofs.errors import BackendRefused, FileNotAvailable, InvalidParameter, NotSupported, SofsError
from sofs.ports.log import Claim
from sofs.ports.runtime import Clock, Entropy
from sofs.ports.shared_root import RootPlace, SharedRoot
from sofs.ports.stream import Transport
from sofs.services.channel import Channel, expect, open_channel, within

log = logging.getLogger("sofs.pair")

MEET_MS_MAX: Final = 1_000  # For one message of the probe.
PEERS_MAX: Final = 8  # Asked at once by a part that is about to claim.
TOKEN_BYTES: Final = 16
NEXT_MOVE: Final = (
    "give both parts one folder: end the other cluster if this root is a copy of its root, and "
    "mount the same file system for both if it is not"
)


class PairProbe:
    """One process's side of the probe, for one volume; see the module. ``part``: its own name."""

    def __init__(
        self, clock: Clock, entropy: Entropy, root: SharedRoot, volume: bytes, part: str
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._root = root
        self._volume = volume
        self.part = part
        self.passed = False
        self.refusal = ""  # Why we were refused, at the last try.
        self.met = 0  # Probes that we answered.

    # Answering
    # ---------------------------------------------------------------------------------------

    async def answer(self, body: Meet | MeetEnd, claim: tuple[str, int], *, owner: bool) -> Message:
        """Answer a message of the probe; see ``meet`` and ``meet_end``."""
        if isinstance(body, MeetEnd):
            return await self.meet_end(body.token)
        return await self.meet(body, claim, owner=owner)

    async def meet(self, body: Meet, claim: tuple[str, int], *, owner: bool) -> Message:
        """Answer ``Meet``; ``claim``: role and epoch of a claim of ours. Who is not the volume's
        ``owner`` and has not passed the probe with one answers FileNotAvailable: it serves nobody,
        and its view says nothing."""
        if not owner and not self.passed:
            raise FileNotAvailable("this part serves nobody yet", retry_after_ms=MEET_MS_MAX)
        if len(body.token) != TOKEN_BYTES:
            raise InvalidParameter(f"a probe's token has {TOKEN_BYTES} bytes; draw one")
        place = await self._root.place()
        absent = False
        if body.volume == self._volume:
            absent = await self._root.absent(_joiner_name(body.token))
            await self._root.make(_server_name(body.token), *claim)
            self.met += 1
        return Met(self._volume, absent, place.url, place.host, place.device, place.inode)

    async def meet_end(self, token: bytes) -> Message:
        """Answer ``MeetEnd``: BackendRefused unless the joiner's name is there."""
        if len(token) != TOKEN_BYTES:
            raise InvalidParameter(f"a probe's token has {TOKEN_BYTES} bytes; draw one")
        place = await self._root.place()
        missing = await self._root.absent(_joiner_name(token))
        await self._root.remove(_server_name(token))
        if missing:
            raise BackendRefused(
                f"{place.url}: {self.part} does not see a name that the joining part made there; "
                f"{NEXT_MOVE}"
            )
        return Done()

    # Joining
    # -----------------------------------------------------------------------------------------

    async def begin(
        self, channel: Channel, who: str, claim: tuple[str, int], *, stranger_ok: bool = False
    ) -> bytes:
        """Probe with the part behind ``channel`` (``who``, for people) up to its confirmation;
        returns the token to end with. ``claim``: role and epoch of one that exists, or epoch 0.
        ``stranger_ok``: a part of another volume is NotSupported, and no reason to refuse."""
        place = await self._root.place()
        token = self._entropy.token(TOKEN_BYTES)
        theirs = _server_name(token)
        ask = Meet(self._volume, token, place.url, place.host, place.device, place.inode)
        try:
            if not await self._root.absent(theirs):
                raise self._refused(place, "a name that nobody made is there")
            work = channel.call(ask)
            met = expect(await within(self._clock, MEET_MS_MAX, work, f"probe with {who}"), Met)
            if stranger_ok and met.volume != self._volume:
                raise NotSupported(f"{who} serves another volume")
            self._compare(place, met, who)
            if await self._root.absent(theirs):
                raise self._refused(place, f"a name that {who} made in {met.root} is not there")
            await self._root.make(_joiner_name(token), *claim)
        except BaseException as error:
            if isinstance(error, BackendRefused):
                self.refuse(error)
            await self._root.remove(theirs)
            raise
        return token

    async def end(self, token: bytes, error: SofsError | None = None) -> None:
        """The other part said that it sees our name, or why not. Removes the names."""
        if isinstance(error, BackendRefused):
            self.refuse(error)
        await self._root.remove(_joiner_name(token))
        await self._root.remove(_server_name(token))

    def passes(self) -> None:
        """This process need not probe again."""
        self.passed, self.refusal = True, ""

    async def join(self, channel: Channel, who: str, claim: tuple[str, int]) -> None:
        """The whole probe, unless this process has passed it."""
        if not self.passed:
            await self._whole(channel, who, claim)
            self.passes()

    async def _whole(
        self, channel: Channel, who: str, claim: tuple[str, int], *, stranger_ok: bool = False
    ) -> None:
        token = await self.begin(channel, who, claim, stranger_ok=stranger_ok)
        try:
            work = channel.call(MeetEnd(token))
            expect(await within(self._clock, MEET_MS_MAX, work, f"probe with {who}"), Done)
        except SofsError as error:
            await self.end(token, error)
            raise
        await self.end(token)

    def _compare(self, place: RootPlace, met: Met, who: str) -> None:
        if met.volume != self._volume:
            raise self._refused(place, f"{who} serves another volume")
        one_host = bool(place.host) and place.host == met.host
        if one_host and (place.device, place.inode) != (met.device, met.inode):
            raise self._refused(
                place,
                f"it is device {place.device:#x}, inode {place.inode}, and {who} on the same host "
                f"serves this volume from {met.root}, device {met.device:#x}, inode {met.inode}",
            )
        if not met.absent:
            raise self._refused(place, f"{who} sees a name in {met.root} that nobody made")

    def _refused(self, place: RootPlace, what: str) -> BackendRefused:
        return BackendRefused(f"{place.url}: {what}; {NEXT_MOVE}")

    def refuse(self, error: BackendRefused) -> None:
        """Note why we are refused."""
        self.refusal = str(error)

    # Before a claim
    # ----------------------------------------------------------------------------------------

    async def find_peer(
        self,
        transport: Transport,
        incarnation: bytes,
        addresses: Sequence[str],
        owner: Claim | None,
        limit_ms: int,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        """Probe with whoever of this volume answers at ``addresses`` within ``limit_ms``; returns
        also when nobody does. Raises BackendRefused when one is in another folder."""
        claim = ("", 0) if owner is None else (owner.role, int(owner.epoch))

        async def ask(address: str) -> bool:
            try:
                channel = await open_channel(
                    transport,
                    self._clock,
                    address,
                    "cluster",
                    Hello(sender=incarnation),
                    _ignore,
                    name=f"probe with {address}",
                    on_crash=on_crash,
                    timeout_ms=limit_ms,
                )
            except SofsError:
                return False
            try:
                who = f"the part at {address}"
                await self._whole(channel, who, claim, stranger_ok=True)
            except BackendRefused:
                raise
            except SofsError as error:
                log.info("no second party at %s: %s", address, error)
                return False
            finally:
                await channel.close()
            return True

        asked = list(dict.fromkeys(addresses))[:PEERS_MAX]
        found = await asyncio.gather(*(ask(one) for one in asked), return_exceptions=True)
        for outcome in found:
            if isinstance(outcome, BaseException):
                raise outcome
        if True in found:  # And nobody refused us: who agrees with us may be as wrong as we are.
            self.passes()


def _joiner_name(token: bytes) -> str:
    return f"{token.hex()}-joins"


def _server_name(token: bytes) -> str:
    return f"{token.hex()}-serves"


def _ignore(channel: Channel, envelope: object) -> None:
    return None
