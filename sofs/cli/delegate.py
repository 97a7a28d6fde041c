"""Commands that live in packages of their own and parse their own arguments: demo, bench and sim.

They are loaded only when called. Each has ``main(arguments) -> int``, and ``make_parser()``, in
``sofs.<command>`` or ``sofs.<command>.main``.
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


def parser(name: str) -> argparse.ArgumentParser | None:
    """The parser of ``sofs <name>``, for completion; None if it is not installed."""
    made = _attribute(name, "make_parser")
    return made() if made is not None else None


def _attribute(name: str, attribute: str) -> Callable[..., Any] | None:
    for module in (f"sofs.{name}.main", f"sofs.{name}"):
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            continue
        if spec is not None:
            found = getattr(importlib.import_module(module), attribute, None)
            if callable(found):
                return found  # type: ignore[no-any-return]
    return None


def _find(name: str) -> Callable[[list[str]], Any]:
    found = _attribute(name, "main")
    if found is not None:
        return found
    raise NotSupported(f"this installation of SOFS has no `sofs {name}`; install a newer one")
