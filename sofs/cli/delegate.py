"""Commands that live in packages of their own and parse their own arguments: demo, bench and sim.

They are loaded only when called. Each has ``main(arguments) -> int`` in ``sofs.<command>`` or
``sofs.<command>.main``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Final

from sofs.errors import NotSupported

COMMANDS: Final = ("demo", "bench", "sim")


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> None:
    """Only for the list of commands in ``sofs --help``: ``main`` never parses with it."""
    commands.add_parser(name, help=text, add_help=False)


def runner(name: str, arguments: Sequence[str]) -> Callable[[], int]:
    """Return what runs ``sofs <name> <arguments>``."""

    def run() -> int:
        return int(_find(name)(list(arguments)) or 0)

    return run


def _find(name: str) -> Callable[[list[str]], Any]:
    for module in (f"sofs.{name}.main", f"sofs.{name}"):
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            continue
        if spec is not None:
            found = getattr(importlib.import_module(module), "main", None)
            if callable(found):
                return found  # type: ignore[no-any-return]
    raise NotSupported(f"this installation of SOFS has no `sofs {name}`; install a newer one")
