"""A transport on the loopback whose listeners and streams are closed after each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from rpc_loopback import WAIT_S, Loopback


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
