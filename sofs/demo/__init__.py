"""``sofs demo``: a cluster on this machine, real applications on it, and processes killed under
them.

``main(argv)`` returns the exit status: 0 when every promise was kept, 1 when one was broken, 2 for
wrong arguments, 130 after Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; see ``sofs.demo.main``."""
    from sofs.demo.main import main as run

    return run(argv)


__all__ = ["main"]
