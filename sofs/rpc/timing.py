"""Limits on waiting, by the Clock port."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sofs.ports.runtime import Clock


async def within(clock: Clock, limit_ms: float, work: Coroutine[Any, Any, object]) -> bool:
    """Run ``work`` for at most ``limit_ms``; return whether it ended in time, else it is cancelled.
    Raises what it raises."""
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep_ms(limit_ms))
    try:
        await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        timer.cancel()
        task.cancel()
