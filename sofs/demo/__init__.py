"""``sofs demo``: a cluster on this machine, real applications on it, and processes killed under
them.

``main(argv)`` returns the exit status: 0 when every promise was kept, 1 when one was broken, 2 for
wrong arguments, 3 when the demo could not be run, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; see ``sofs.demo.run``."""
    from sofs.demo.run import main as run

    return run(argv)


def make_parser() -> argparse.ArgumentParser:
    """The command's parser; see ``sofs.demo.run``."""
    from sofs.demo.run import make_parser as make

    return make()


__all__ = ["main", "make_parser"]
