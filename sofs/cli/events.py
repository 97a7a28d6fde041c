"""`sofs events`: what happened to sessions, handles, shares, nodes and witnesses.

It reads the event rings of the run directory and of this user's processes that use the SDK, living
and dead; no part is asked, so it works when nothing runs any more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import textwrap
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sofs.actors import rundir
from sofs.cli.operator import printable
from sofs.cli.up import add_run_dir
from sofs.core.events import CHANNELS, Event, Level
from sofs.telemetry.event_ring import EVENTS_FOLDER, Follower, read_events, sdk_events_folder

EXAMPLES: Final = """\
examples:
  sofs events                                     the newest, of all processes
  sofs events --channel SMBClient --since 10m     what applications saw
  sofs events --id 651 --id 652 --id 655          handles kept, taken up again, released
  sofs events --since 2026-11-25T20:00            since that time (UTC, unless it names a zone)
  sofs events --follow                            and what comes, until Ctrl-C
  sofs events --json | jq 'select(.level != "information")'

--json prints an object a line. docs/EVENTS.md lists all numbers. Rings hold the newest events of
each process only (SOFS_EVENTS_MIB, default 1; 0 for none).
"""
LAST_DEFAULT: Final = 200
POLL_S: Final = 0.25
COLUMNS_MAX: Final = 100
_HEAD: Final = "{:12} {:1} {:17} {:>5} {:13}"
_MESSAGE_COLUMNS: Final = COLUMNS_MAX - len(_HEAD.format("", "", "", "", "")) - 1
_MARKS: Final = {Level.ERROR: "E", Level.WARNING: "W", Level.INFORMATION: " "}
_AGO: Final = re.compile(r"(\d{1,9})(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "events",
        help="what happened to sessions, handles, shares, nodes, witnesses",
        description="Read the event rings of a cluster on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--channel",
        action="append",
        metavar="C",
        type=_channel,
        help=f"only of this channel: {', '.join(c.value for c in CHANNELS)}; may be repeated",
    )
    parser.add_argument("--id", action="append", type=int, metavar="N", help="only of this number")
    parser.add_argument(
        "--since", metavar="TIME", type=_moment, help="10m (s, m, h, d), or 2026-11-25T20:00[:00]"
    )
    parser.add_argument(
        "--last",
        type=_count,
        metavar="N",
        help=f"how many (default: {LAST_DEFAULT}, or all --since then)",
    )
    parser.add_argument("--follow", action="store_true", help="go on until interrupted")
    parser.add_argument("--root", metavar="PATH_OR_URL", help="the cluster's root")
    add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="for programs: an object a line")
    parser.set_defaults(run=run)


def _channel(text: str) -> str:
    for channel in CHANNELS:
        if channel.value.lower() == text.lower():
            return channel.value
    raise argparse.ArgumentTypeError(
        f"there is no channel {text!r}; there are {', '.join(c.value for c in CHANNELS)}"
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _moment(text: str) -> int:
    """A time in ns since the epoch."""
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            moment = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: give 90s, 10m, 2h, 1d, or 2026-11-25T20:00"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1e9)


def folders(options: argparse.Namespace) -> list[Path]:
    """Where rings are: of the cluster that is meant, if there is one, and of SDK processes."""
    run_dir = rundir.find_run_dir(options.run_dir, options.root, os.environ)
    found = [] if run_dir is None else [run_dir / EVENTS_FOLDER]
    return [*found, sdk_events_folder(os.environ)]


def wanted(options: argparse.Namespace, event: Event) -> bool:
    return (
        (not options.channel or event.channel.value in options.channel)
        and (not options.id or event.id in options.id)
        and (options.since is None or event.wall_ns >= options.since)
    )


def run(options: argparse.Namespace) -> int:
    where = folders(options)
    printer = Printer(as_json=options.json)
    try:
        if options.follow:
            _follow(options, where, printer)
        else:
            events, lost = read_events(*where)
            printer.show(_newest(options, (e for e in events if wanted(options, e))))
            if lost and not options.json:
                print(f"{lost} older events were replaced by newer ones", file=sys.stderr)
            if not printer.shown and not options.json:
                print("no such event is on record", file=sys.stderr)
    except BrokenPipeError:
        # Whoever read it has enough. What Python would still flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _newest(options: argparse.Namespace, events: Iterable[Event]) -> list[Event]:
    found = list(events)
    last = options.last or (LAST_DEFAULT if options.since is None else len(found))
    return found[-last:] if last else found


def _follow(options: argparse.Namespace, where: list[Path], printer: Printer) -> None:
    """Print what is there, then what comes; returns at an interrupt."""
    follower = Follower(*where)
    pause = threading.Event()
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(follower):
        printer.show(_newest(options, (e for e in follower.read() if wanted(options, e))))
        while True:
            pause.wait(POLL_S)
            printer.show([e for e in follower.read() if wanted(options, e)])


class Printer:
    """Prints events, in a table with a line a day, or as an object a line."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._day = ""
        self.shown = 0

    def show(self, events: list[Event]) -> None:
        for event in events:
            for line in [json.dumps(fields(event))] if self._json else self._table(event):
                print(line)
        self.shown += len(events)
        sys.stdout.flush()

    def _table(self, event: Event) -> list[str]:
        lines = []
        if not self._day:
            lines.append(_HEAD.format("TIME (UTC)", "", "CHANNEL", "ID", "PROCESS") + " EVENT")
        day, _, clock = moment_text(event.wall_ns).partition("T")
        if day != self._day:
            self._day = day
            lines.append(day)
        process = event.owner.name
        if process == "client":  # All SDK processes are called so.
            process = f"client {event.owner.pid}"
        head = _HEAD.format(clock, _MARKS[event.level], event.channel.value, event.id, process[:13])
        text = textwrap.wrap(printable(event.message), _MESSAGE_COLUMNS) or [""]
        lines.append(f"{head} {text[0]}")
        lines += [" " * (len(head) + 1) + more for more in text[1:]]
        return lines


def moment_text(wall_ns: int) -> str:
    """A time as ``2026-11-25T20:01:11.380``, UTC."""
    seconds, rest = divmod(wall_ns, 10**9)
    day = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{day}.{rest // 10**6:03}"


def fields(event: Event) -> dict[str, object]:
    """One event for programs."""
    return {
        "time": moment_text(event.wall_ns) + "Z",
        "time_ns": event.wall_ns,
        "monotonic_ns": event.monotonic_ns,
        "channel": event.channel.value,
        "id": event.id,
        "name": event.name,
        "level": event.level.value,
        "process": event.owner.name,
        "role": event.owner.role,
        "pid": event.owner.pid,
        "run": event.owner.run,
        "fields": dict(event.fields),
        "message": event.message,
        "trace": event.trace.hex(),
        "span": event.span.hex(),
    }
