"""`sofs up`: start a cluster on this machine, or what is missing of one."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from sofs.actors import lifecycle
from sofs.actors.lifecycle import DNS_NAME, NODES_DEFAULT, PORTS_COUNT, UpOptions
from sofs.core.zone import TTL_DEFAULT_S
from sofs.rpc.credential import CREDENTIAL_FILE, CREDENTIAL_VARIABLE

PORT_MAX: Final = 65535 - PORTS_COUNT + 1  # Those behind it are used too.
EXAMPLES: Final = """\
examples:
  sofs up                                     three nodes on ~/.local/share/sofs/root
  sofs up --root /mnt/shared/sofs --nodes 5   five nodes on a folder of a shared file system
  sofs up --root file:///srv/sofs --run-dir /run/sofs
  sofs up --dns-name files.example.org        under a name of your own (docs/DNS.md)
  sofs up --address auto                      in the Ray cluster of this machine (docs/RAY.md)
  sofs up --take-over                         although the leader of another run answers

It is safe to repeat: what runs is kept, what is missing is started.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "up",
        help="start a cluster, or what is missing of it",
        description="Start a cluster on this machine and return when it serves.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", metavar="PATH_OR_URL", help="the cluster's root (see examples)")
    parser.add_argument(
        "--nodes",
        type=_count,
        default=0,
        help=f"nodes that serve (default {NODES_DEFAULT}; with --address at most so many, and by "
        "default as many as Ray has for SOFS)",
    )
    parser.add_argument(
        "--address",
        metavar="ADDR",
        default="",
        help="live in the Ray cluster at ADDR that others started; auto: the one of this machine",
    )
    parser.add_argument("--port", type=_port, default=0, help="of the nodes (default: a free one)")
    parser.add_argument(
        "--dns-name",
        metavar="NAME",
        default="",
        help=f"name of the access point in DNS (default {DNS_NAME})",
    )
    parser.add_argument(
        "--dns-ttl",
        type=int,
        metavar="SECONDS",
        help=f"how long resolvers may keep its records (default {TTL_DEFAULT_S})",
    )
    add_run_dir(parser)
    parser.add_argument(
        "--take-over", action="store_true", help="claim the cluster from another run that answers"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def add_run_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        help="where processes, logs and the credential are kept (default: below "
        "$XDG_RUNTIME_DIR/sofs or /tmp, by cluster)",
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("a cluster has at least one node")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 1024 <= value <= PORT_MAX:
        raise argparse.ArgumentTypeError(f"a port is 1024 to {PORT_MAX}")
    return value


def default_root() -> str:
    """The root of whoever names none."""
    data = os.environ.get("XDG_DATA_HOME")
    base = Path(data) if data else Path.home() / ".local" / "share"
    return str(base / "sofs" / "root")


def say(line: str) -> None:
    """Progress goes to standard error: the result alone is on standard output."""
    print(f"  {line}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> int:
    begin = time.monotonic()
    root = options.root or default_root()
    done = lifecycle.up(
        UpOptions(
            root=root,
            nodes=options.nodes,
            run_dir=options.run_dir,
            port=options.port,
            take_over=options.take_over,
            dns_name=options.dns_name,
            dns_ttl_s=options.dns_ttl,
            address=options.address,
        ),
        os.environ,
        say,
    )
    record = done.record
    if options.json:
        facts = {
            "started": done.started,
            "root": root,
            "run_dir": str(done.run_dir),
            "run_id": record.run_id,
            "cluster": record.cluster,
            "url": record.url,
            "dns_url": record.dns_url,
            "credential": str(done.run_dir / CREDENTIAL_FILE),
        }
        print(json.dumps(facts, indent=1))
        return 0
    what = f"{'up to ' if record.foreign else ''}{record.nodes} nodes on {root}"
    what += f" in the Ray cluster at {record.ray_address}" if record.foreign else ""
    took = f"up in {time.monotonic() - begin:.1f} s" if done.started else "already up"
    print(f"{took}: {what}")
    print(f"url         {done.record.url}")
    if done.record.dns_url:
        print(f"by name     {done.record.dns_url}")
    print(f"credential  export {CREDENTIAL_VARIABLE}={done.run_dir / CREDENTIAL_FILE}")
    print(f"run dir     {done.run_dir}")
    return 0
