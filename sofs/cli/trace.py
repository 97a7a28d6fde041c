"""`sofs trace`: what operations did, and what became of those that a dead process had in hand.

It reads the trace rings of the run directory and of this user's processes that use the SDK, living
and dead; no part is asked, so it works when nothing runs any more.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from pathlib import Path
from typing import Final

from sofs.actors import rundir
from sofs.cli.up import add_run_dir
from sofs.core.spans import RingView, Span, Trace, assemble, traces, with_linked
from sofs.core.trace import SpanKind
from sofs.errors import ObjectNameNotFound
from sofs.telemetry.ring import TRACE_FOLDER, read_rings, sdk_folder
from sofs.telemetry.waterfall import failover_table, pick, table, waterfall

EXAMPLES: Final = """\
examples:
  sofs trace ls                        the newest operations of applications, take-overs, changes
  sofs trace ls --slowest --last 20    the slowest that the rings still hold
  sofs trace failovers                 every change of node: why, from where, how long
  sofs trace show 8f3a                 one trace as a waterfall; the last digits of its id do
  sofs trace show                      the worst failover
  sofs trace show 8f3a --json | jq .   its spans for programs
  sofs trace export > traces.json      everything as OTLP/JSON
  sofs trace export --otlp http://localhost:4317 --follow

A span that a dead process began and never ended is shown as KILLED. Rings hold the newest records
of each process only (SOFS_TRACE_MIB, default 4; 0 for none).
"""
LAST_DEFAULT: Final = 40
_LISTED: Final = (SpanKind.CLIENT, SpanKind.FAILOVER, SpanKind.TAKEOVER, SpanKind.LEADER)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "trace",
        help="what operations did, failovers among them",
        description="Read the trace rings of a cluster on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listed = _action(actions, "ls", "operations, the newest last", ls)
    listed.add_argument("--last", type=int, default=LAST_DEFAULT, metavar="N", help="how many")
    listed.add_argument("--slowest", action="store_true", help="the slowest, not the newest")
    listed.add_argument("--all", action="store_true", help="what parts do on their own, too")
    shown = _action(actions, "show", "one trace as a waterfall", show)
    shown.add_argument("id", nargs="?", default="", help="last digits of its id (worst failover)")
    failed = _action(actions, "failovers", "every change of node", failovers)
    failed.add_argument("--last", type=int, default=LAST_DEFAULT, metavar="N", help="how many")
    exported = _action(actions, "export", "everything as OTLP/JSON, or to a receiver", export)
    exported.add_argument("--otlp", metavar="URL", help="send it to an OTLP/gRPC receiver")
    exported.add_argument("--follow", action="store_true", help="go on until interrupted")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str, run: object
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=what, description=what.capitalize() + ".")
    parser.add_argument("--root", metavar="PATH_OR_URL", help="the cluster's root")
    add_run_dir(parser)
    if name != "export":
        parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)
    return parser


def folders(options: argparse.Namespace) -> list[Path]:
    """Where rings are: of the cluster that is meant, if there is one, and of SDK processes."""
    run_dir = rundir.find_run_dir(options.run_dir, options.root, os.environ)
    found = [] if run_dir is None else [run_dir / TRACE_FOLDER]
    return [*found, sdk_folder(os.environ)]


def load(options: argparse.Namespace) -> list[Span]:
    rings = read_rings(*folders(options))
    return assemble(RingView(ring.contents, ring.alive) for ring in rings)


def ls(options: argparse.Namespace) -> int:
    found = [t for t in traces(load(options)) if options.all or t.root.kind in _LISTED]
    if options.slowest:
        found.sort(key=lambda trace: trace.duration_ns)
    found = found[-options.last :] if options.last > 0 else found
    if options.json:
        print(json.dumps([_summary(trace) for trace in found], indent=1))
    else:
        print("\n".join(table(found)))
    return 0


def failovers(options: argparse.Namespace) -> int:
    found = [trace for trace in traces(load(options)) if trace.failovers][-options.last :]
    if options.json:
        print(json.dumps([_summary(trace) for trace in found], indent=1))
    else:
        print("\n".join(failover_table(found)))
    return 0


def show(options: argparse.Namespace) -> int:
    spans = load(options)
    found = traces(spans)
    trace = pick(found, options.id)
    if trace is None:
        what = f"no trace ends in {options.id!r}" if options.id else "no failover is on record"
        raise ObjectNameNotFound(f"{what}; `sofs trace ls` lists what the rings still hold")
    whole = with_linked(trace, spans)
    if options.json:
        print(json.dumps({"trace": trace.id.hex(), "spans": [_span(s) for s in whole.spans]}))
    else:
        print("\n".join(waterfall(whole)))
    return 0


def export(options: argparse.Namespace) -> int:
    # OpenTelemetry takes a while to import: only for this.
    from sofs.telemetry.export import Exporter, follow, grpc_sender
    from sofs.telemetry.otlp import to_json

    if not options.otlp:
        print(json.dumps(to_json(load(options))))
        return 0
    exporter = Exporter(folders(options), grpc_sender(options.otlp))
    if options.follow:
        follow(exporter, threading.Event())
    sent = exporter.poll(time.time_ns(), hold_ns=0)
    print(f"{sent} spans sent to {options.otlp}")
    return 0


def _summary(trace: Trace) -> dict[str, object]:
    return {
        "trace": trace.id.hex(),
        "spans": len(trace.spans),
        "killed": trace.killed,
        "root": _span(trace.root),
        "failovers": [_span(span) for span in trace.failovers],
    }


def _span(span: Span) -> dict[str, object]:
    return {
        "trace": span.trace.hex(),
        "id": span.id.hex(),
        "parent": span.parent.hex(),
        "kind": span.kind.name.lower(),
        "name": span.name,
        "process": span.process,
        "role": span.role,
        "pid": span.pid,
        "start_ns": span.start_ns,
        "end_ns": span.end_ns,
        "status": span.status.name.lower(),
        "handle": span.handle,
        "offset": span.offset,
        "number": span.number,
        "length": span.length,
        "notes": span.notes,
        "links": [link.hex() for link in span.links],
    }
