"""A transport on the loopback whose listeners and streams are closed after each test."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest
from rpc_loopback import WAIT_S, Loopback


@pytest.fixture(scope="module", autouse=True)
def grpc_objects_are_freed_here() -> Iterator[None]:
    """Python 3.11 fails to import a module when the collector frees a gRPC server while the module
    is being parsed (CPython issue 106905), so a module of tests leaves none behind."""
    yield
    gc.collect()


@pytest.fixture
async def loopback() -> AsyncIterator[Loopback]:
    """Fails the test whose tasks outlive its streams and listeners."""
    before = asyncio.all_tasks()
    made = Loopback()
    yield made
    await made.close()
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, pending = await asyncio.wait(left, timeout=WAIT_S)
        assert not pending
