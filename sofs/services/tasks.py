"""Background tasks whose exceptions are never lost.

asyncio keeps an exception in a task until somebody awaits it; a service that died that way looks
alive. A ``TaskGroup`` would cancel siblings and wrap errors; services need the opposite: keep a
reference, report the first unexpected exception to one place, and let that place end the part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Tasks:
    """Owns the tasks of one part. ``on_crash`` gets every exception but cancellation."""

    def __init__(self, name: str, on_crash: Callable[[BaseException], None]) -> None:
        self._name = name
        self._on_crash = on_crash
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """Start ``work``; after ``close`` it is discarded unstarted and a cancelled task is
        returned."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self._name}/{name}")
        if self._closed:
            task.cancel()
            return task
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._on_crash(error)

    def crash(self, error: BaseException, *, unless: type[BaseException]) -> None:
        """Report an error of work that belongs here, unless it is of a kind that others handle."""
        if not isinstance(error, unless):
            self._on_crash(error)

    def cancel(self) -> None:
        """Cancel everything now, without waiting (a part that must answer nobody any more)."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()

    async def close(self) -> None:
        """Cancel everything and wait until it ended."""
        self.cancel()
        current = asyncio.current_task()
        waiting = [task for task in list(self._tasks) if task is not current]
        if waiting:
            await asyncio.gather(*waiting, return_exceptions=True)
