"""`sofs status`: every part of a cluster, as it says itself, and what is wrong."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from typing import Final

from sofs.actors import lifecycle, rundir
from sofs.actors.lifecycle import CorruptReport, Report
from sofs.cli.operator import table_lines
from sofs.cli.up import add_run_dir
from sofs.rpc.credential import find_credential

EXAMPLES: Final = """\
examples:
  sofs status                    the one cluster that is up
  sofs status --json | jq .parts
  sofs status --json | jq .corrupt     what was found damaged
  sofs status --root /srv/sofs

Exit status: 0 when clients are served, 3 when they are not.
"""
EXIT_NOT_SERVING: Final = 3


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "status",
        help="every part of a cluster, and what is wrong",
        description="Ask every part of a cluster how it is.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", metavar="PATH_OR_URL", help="the cluster's root")
    add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--facts", action="store_true", help="with all that the parts tell")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    run_dir = rundir.find_run_dir(options.run_dir, options.root, os.environ)
    if run_dir is None or rundir.read_run(run_dir) is None:
        report = Report(False, str(run_dir or ""), "", "", "", False, [], ["no cluster is up"])
    else:
        report = lifecycle.status(run_dir, find_credential(None, os.environ, run_dir))
    print(json.dumps(asdict(report), indent=1) if options.json else table(report, options.facts))
    return 0 if report.serving else EXIT_NOT_SERVING


def damaged(place: CorruptReport) -> str:
    """One damaged place for people."""
    record = f"log {place.log_id}, segment {place.segment}, sequence {place.sequence}"
    if place.kind == "store":
        return f"{place.object} (found by {place.found_by})"
    if place.kind == "lost":
        what = "writes are lost; the whole file is refused"
    else:
        what = f"bytes {place.offset} to {place.offset + place.length}"
    return f"{place.path}: {what} ({record}; found by {place.found_by})"


def table(report: Report, facts: bool = False) -> str:
    """The report for people."""
    lines = []
    if report.root:
        lines += [f"root     {report.root}", f"run dir  {report.run_dir}"]
    if report.up:
        lines += [f"run      {report.run_id[:8]}", f"url      {report.url}"]
        lines += [f"dns      {report.dns}"] if report.dns else []
    rows = [
        (p.name, p.state, p.address or "-", str(p.pid or "-"), p.incarnation[:8] or "-")
        for p in report.parts
    ]
    if rows:
        head, *told = table_lines(("PART", "STATE", "ADDRESS", "PID", "INCARNATION"), rows)
        lines += ["", head]
        for part, line in zip(report.parts, told, strict=True):
            lines.append(line)
            lines += [f"    {fact}" for fact in part.facts] if facts else []
    if facts and report.corrupt:
        lines += ["", "DAMAGED"]
        lines += [f"    {damaged(place)}" for place in report.corrupt]
        more = report.corrupt_total - len(report.corrupt)
        lines += [f"    and {more} more"] if more else []
    if report.notes:
        lines += ["", *report.notes]
    return "\n".join(lines)
