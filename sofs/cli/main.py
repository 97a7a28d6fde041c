"""The `sofs` command: parse, run one command, tell errors without tracebacks.

Exit status: 0 done; 1 a promise of SOFS was broken (said by `sofs demo` and `sofs bench`); 2 the
command was used wrongly; 3 SOFS or the system refused, with what to do next; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from sofs import __version__
from sofs.cli import (
    cluster,
    completion,
    delegate,
    dns,
    down,
    events,
    handles,
    nouns,
    share,
    status,
    trace,
    up,
    witness,
)
from sofs.errors import SofsError

EXIT_BROKEN_PROMISE: Final = 1
EXIT_USAGE: Final = 2
EXIT_REFUSED: Final = 3
EXIT_INTERRUPTED: Final = 130

EXAMPLES: Final = """\
examples:
  sofs up --root /srv/sofs              start a cluster of three nodes on a folder
  sofs status                           every part of it, and what is wrong
  sofs status --json | jq .parts        the same for programs
  sofs cluster ls                       the clusters that this user knows here
  sofs dns ls                           who is listed under its name
  sofs share create logs                another share on its volume
  sofs node ls                          the machines that serve
  sofs witness ls                       clients, and the nodes that they use
  sofs trace failovers                  every change of node; `trace show` draws one
  sofs events --since 10m               what happened to sessions, handles, nodes
  sofs handles ls                       which files are open, and by whom
  sofs down                             end its processes; files stay
  sofs demo                             see it survive the death of every part
  sofs bench                            measure it on this machine
  source <(sofs completion bash)        completion; also for zsh and fish
  sofs sim --seeds 200                  try its protocols on 200 schedules of faults

then, in Python:
  share = sofs.connect("sofs://127.0.0.11:PORT,.../share")   # as `sofs up` prints it

exit status: 0 done, 1 a promise was broken, 2 wrong usage, 3 refused (the message says why)
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sofs",
        description="A continuously available scale-out file server that lives in a Ray cluster.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sofs {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (
        up,
        down,
        status,
        cluster,
        share,
        nouns,
        handles,
        dns,
        witness,
        trace,
        events,
        completion,
    ):
        module.add_parser(commands)
    delegate.add_parser(commands, "demo", "see a cluster survive the death of every part")
    delegate.add_parser(commands, "bench", "measure a cluster on this machine")
    delegate.add_parser(commands, "sim", "run clusters in virtual time, from seeds")
    pass_examples_on(parser)
    return parser


def pass_examples_on(parser: argparse.ArgumentParser) -> None:
    """Give each command without examples those of its noun that show it, or all of them."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        for command in action.choices.values():
            if not command.epilog and parser.epilog:
                lines = parser.epilog.splitlines()
                own = [line for line in lines if f"{line} ".startswith(f"  {command.prog} ")]
                command.epilog = "\n".join(["examples:", *own]) if own else parser.epilog
                command.formatter_class = argparse.RawDescriptionHelpFormatter
            pass_examples_on(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (argparse itself exits with 2 for wrong usage)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A command that has a parser of its own gets its arguments as they are, --help too.
    if given and given[0] in delegate.COMMANDS:
        run = delegate.runner(given[0], given[1:])
    else:
        options = build_parser().parse_args(given)

        def run() -> int:
            return int(options.run(options))

    try:
        status = run()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is left must not be told at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SofsError as error:
        print(f"sofs: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except OSError as error:
        print(f"sofs: the system refused: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("sofs: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
