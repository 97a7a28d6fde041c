"""`sofs node` and `sofs volume`: the machines that serve, and what they serve."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Final

from sofs.actors import admin
from sofs.cli.operator import add_common, ask, show_json, show_table, where
from sofs.core.messages import (
    ChangeMachine,
    ListMachines,
    ListVolumes,
    MachineInfo,
    MachineList,
    VolumeList,
)

NODE_EXAMPLES: Final = """\
examples:
  sofs node ls                     machines, their slots, and what is meant for them
  sofs node drain machine-2       its clients and parts move to others, one after the other
  sofs node resume machine-2      it may serve again
  sofs node ls --json | jq '.machines[] | select(.slot == 0)'

A drained machine stays drained, also when it comes back, until it is resumed. The clients of its
node are moved to other nodes before that is ended, for 10 s at most. The last node that runs is
never ended.
"""
VOLUME_EXAMPLES: Final = """\
examples:
  sofs volume create archive       another volume, below the root, with a share of its name
  sofs volume ls                   volumes, the machines of their authorities, their shares
  sofs volume ls --json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    node = commands.add_parser(
        "node",
        help="list, drain and resume machines",
        description="Machines (Ray nodes) that serve, or could.",
        epilog=NODE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = node.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="all machines")
    listing.set_defaults(run=run_node_ls)
    add_common(listing)
    for name, avoided, text in (
        ("drain", True, "move its parts to other machines and keep them away"),
        ("resume", False, "let it serve again"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("name", metavar="NAME")
        action.set_defaults(run=run_drain, avoided=avoided)
        add_common(action)
    volume = commands.add_parser(
        "volume",
        help="list and create volumes",
        description="Volumes: trees of files, each with a coordinator and a resume-key.",
        epilog=VOLUME_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = volume.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="all volumes")
    listing.set_defaults(run=run_volume_ls)
    add_common(listing)
    create = actions.add_parser("create", help="make a volume, or have one served that is there")
    create.add_argument("name", metavar="NAME")
    create.set_defaults(run=run_volume_create)
    add_common(create)


def run_node_ls(options: argparse.Namespace) -> int:
    show(options, ask(options, ListMachines(), MachineList))
    return 0


def run_drain(options: argparse.Namespace) -> int:
    body = ChangeMachine(admin.token(), options.name, options.avoided)
    show(options, ask(options, body, MachineList))
    return 0


def show(options: argparse.Namespace, reply: MachineList) -> None:
    if options.json:
        show_json({"machines": [asdict(m) for m in reply.machines], "drained": reply.avoided})
        return
    rows = [
        (m.name or m.id[:8], str(m.slot or "-"), state(m), " ".join(m.parts) or "-")
        for m in reply.machines
    ]
    there = [machine.name for machine in reply.machines]
    rows += [(name, "-", "drained, not there", "-") for name in reply.avoided if name not in there]
    show_table(("NODE", "SLOT", "STATE", "PARTS"), rows)


def state(machine: MachineInfo) -> str:
    """A machine's state in one word, or two."""
    if machine.avoided or machine.draining:
        why = "drained" if machine.avoided else "leaving"
        return f"{why}, still serving" if machine.slot or machine.parts else why
    return "serving" if machine.slot else "spare"


def run_volume_ls(options: argparse.Namespace) -> int:
    show_volumes(options, ask(options, ListVolumes(), VolumeList))
    return 0


def run_volume_create(options: argparse.Namespace) -> int:
    show_volumes(options, admin.create_volume(*where(options), options.name))
    return 0


def show_volumes(options: argparse.Namespace, reply: VolumeList) -> None:
    if options.json:
        show_json({"volumes": [asdict(volume) for volume in reply.volumes]})
        return
    show_table(
        ("VOLUME", "COORDINATOR", "RESUME-KEY", "SHARES"),
        [(v.name, v.coordinator or "-", v.resume_key or "-", " ".join(v.shares) or "-")
         for v in reply.volumes],
    )  # fmt: skip
