"""Running a coroutine that usually does not suspend, without a task."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any


def finished(work: Coroutine[Any, Any, None]) -> bool:
    """Run ``work`` up to its first suspension. True when it returned; when it would wait, it is
    cancelled at that point and False returned (run it anew in a task). Raises what it raises."""
    try:
        work.send(None)
    except StopIteration:
        return True
    work.close()
    return False
