"""The serving side: one gRPC server for all services at one address.

The credential stands in the metadata of a call and is compared before the call is accepted; a call
without it ends before a message is read or a service hears of it. Accepting is sending the initial
metadata with a mark in it: a client's connect is complete when the mark arrived.

Each accept runs in a task of its own, not in gRPC's task of the call, because gRPC cancels that one
when the peer goes away: services see Unavailable, never a cancellation that nobody asked for. The
call ends when either its accept returned or its stream ended, with the status of the reason.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from sofs.errors import InvalidParameter, SofsError, Unavailable
from sofs.ports.runtime import Clock
from sofs.ports.stream import Accept
from sofs.rpc.address import join_address
from sofs.rpc.options import (
    ACCEPTED_KEY,
    CREDENTIAL_KEY,
    SERVER_OPTIONS,
    SERVICES,
    STREAMS_MAX,
)
from sofs.rpc.status import status_of_error
from sofs.rpc.stream import LOST, GrpcStream
from sofs.rpc.timing import within

STOP_GRACE_MS: Final = 100  # For the ends of the streams to reach their peers.
CLOSE_MS_MAX: Final = 1_000  # What accepts get to end when their listener closes.

_LOGGER = logging.getLogger(__name__)

_Serve = Callable[[Any, Any], Awaitable[None]]


class GrpcListener:
    """``ports.stream.Listener`` on a grpc.aio server."""

    def __init__(self, clock: Clock, credential: bytes, accept: Accept) -> None:
        self._clock = clock
        self._credential = credential
        self._accept = accept
        self._address = ""
        self._server = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=STREAMS_MAX)
        self._server.add_generic_rpc_handlers((_Handlers(self._serving),))
        self._calls: dict[_Call, None] = {}
        self._closed = False
        self.stopped: asyncio.Task[None] | None = None  # Set by close; done when gRPC let go.

    @property
    def address(self) -> str:
        """``host:port`` as bound."""
        return self._address

    async def start(self, host: str, port: int) -> None:
        """Bind ``port``, or a free one when it is taken, and serve. InvalidParameter when no port
        of ``host`` can be bound."""
        for candidate in dict.fromkeys((port, 0)):
            try:
                bound = self._server.add_insecure_port(join_address(host, candidate))
            except RuntimeError:
                bound = 0
            if bound:
                self._address = join_address(host, bound)
                await self._server.start()
                return
            if candidate:
                _LOGGER.warning("port %d of %s is taken: binding a free one", candidate, host)
        raise InvalidParameter(
            f"cannot listen at {join_address(host, port)} nor at another port of {host}: "
            "give an address of this machine"
        )

    async def close(self) -> None:
        """End all streams and stop listening. Accepts have CLOSE_MS_MAX to end by themselves, then
        they are cancelled. May be called twice.

        The address is free afterwards. A connection whose peer is frozen amid data may linger in
        gRPC for KEEPALIVE_TIMEOUT_MS more; ``stopped`` is done when it is gone too."""
        self._closed = True
        for call in list(self._calls):
            call.stream.end(Unavailable(f"the listener at {self._address} was closed"))
        if self.stopped is None:
            self.stopped = asyncio.create_task(self._server.stop(STOP_GRACE_MS / 1000))
        if not await within(self._clock, CLOSE_MS_MAX, asyncio.wait([self.stopped])):
            _LOGGER.warning("a connection to %s lingers: its peer reads nothing", self._address)
        tasks = [call.accepted for call in self._calls]
        if tasks and not await within(self._clock, CLOSE_MS_MAX, asyncio.wait(tasks)):
            late = [task for task in tasks if not task.done()]
            _LOGGER.warning("%d accepts outlived their streams: cancelling them", len(late))
            for task in late:
                task.cancel()
            await asyncio.wait(late)

    def _serving(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> _Serve | None:
        """Return what serves a new call: its service, or a refusal; None for an unknown method."""
        service = SERVICES.get(method)
        if service is None:
            return None
        offered = [value for key, value in metadata if key == CREDENTIAL_KEY]
        value = offered[0] if len(offered) == 1 else ""
        raw = value.encode() if isinstance(value, str) else value
        if not hmac.compare_digest(raw, self._credential):
            return _refuse

        async def serve(_requests: object, context: Any) -> None:
            if self._closed:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the listener was closed")
            try:
                await context.send_initial_metadata(((ACCEPTED_KEY, "1"),))
            except LOST:
                return  # The peer left before it was accepted.
            if self._closed:  # Since then; close() has not seen this call.
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the listener was closed")
            call = _Call(service, context, self._accept)
            self._calls[call] = None
            call.accepted.add_done_callback(lambda _: self._calls.pop(call))
            await call.run()

        return serve


class _Call:
    """One accepted call; made and run by gRPC's task of the call, which becomes the pump."""

    def __init__(self, service: str, context: Any, accept: Accept) -> None:
        self._service = service
        self._context = context
        self._pump: asyncio.Task[Any] | None = asyncio.current_task()
        self._stopped_by_us = False
        self._served = False
        self.stream = GrpcStream(context.peer(), context.read, context.write, self._on_end)
        self.accepted = asyncio.create_task(self._run_accept(accept), name=f"accept-{service}")

    async def run(self) -> None:
        """Pump until the stream ends, then end the call with the status of the reason."""
        pump = self._pump
        assert pump is not None
        try:
            await self.stream.pump()
        except asyncio.CancelledError:
            if not self._stopped_by_us or pump.uncancel() > 0:
                raise  # gRPC cancelled the call: the peer is gone, there is nobody to tell.
        finally:
            self._pump = None
        reason = self.stream.end_reason
        if reason is not None and not self._served:
            await self._context.abort(status_of_error(reason), reason.message)

    def _on_end(self) -> None:
        if self._pump is not None and asyncio.current_task() is not self._pump:
            self._stopped_by_us = True
            self._pump.cancel()

    async def _run_accept(self, accept: Accept) -> None:
        """Run the service; whatever it ends with ends the stream."""
        stream, service = self.stream, self._service
        try:
            await accept(service, stream)
            self._served = stream.end_reason is None
            stream.end(Unavailable(f"the {service} service ended the stream"))
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except SofsError as error:
            _LOGGER.debug("the %s service ended the stream of %s: %s", service, stream.peer, error)
            stream.end(error)
        except BaseException as error:
            _LOGGER.error("%s service, stream of %s", service, stream.peer, exc_info=error)
            asyncio.get_running_loop().call_exception_handler(
                {
                    "message": f"the {service} service failed on a stream of {stream.peer}",
                    "exception": error,
                    "task": self.accepted,
                }
            )
        finally:
            stream.end(Unavailable(f"the {service} service failed: connect again"))


async def _refuse(_requests: object, context: Any) -> None:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        "the cluster credential is missing or wrong: set SOFS_CREDENTIAL",
    )


class _Handlers(grpc.GenericRpcHandler):
    """Hands gRPC the coroutine for a call; messages stay bytes."""

    def __init__(
        self, serving: Callable[[str, Sequence[tuple[str, str | bytes]]], _Serve | None]
    ) -> None:
        self._serving = serving

    def service(self, handler_call_details: Any) -> Any:
        """Called by gRPC for each new call, before it reads a message."""
        serve = self._serving(
            handler_call_details.method, handler_call_details.invocation_metadata or ()
        )
        return None if serve is None else grpc.stream_stream_rpc_method_handler(serve)
