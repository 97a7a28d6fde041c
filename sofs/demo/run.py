"""The run: start, work, faults, checks, clean-up.

Everything is bounded: the whole demo by ``--seconds``, of which the last part belongs to the
checks. Whatever happens, Ctrl-C and SIGTERM too, the cluster is ended and the folder removed.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from sofs.client.sync import Share, connect
from sofs.demo.activity import Activity
from sofs.demo.bank import Teller, examine_bank, found_bank
from sofs.demo.cluster import Cluster, make_cluster, parts_of, ray_is_there
from sofs.demo.faults import FaultScript, faults_of
from sofs.demo.meter import Meter, timed_share
from sofs.demo.report import Narrator, Outcome, print_outcome, write_json
from sofs.demo.tree import Comparer, Copier, Tree
from sofs.errors import SofsError
from sofs.interrupts import signals_interrupt
from sofs.telemetry.waterfall import worst_failover

NODES: Final = 3
TELLERS: Final = 3
COPIERS: Final = 2
COMPARERS: Final = 3
SECONDS: Final = 110.0
CHECKS_S: Final = 30.0  # Kept for the checks at the end.
SHORT_SECONDS: Final = 60.0
SHORT_CHECKS_S: Final = 15.0
SHORT_FILES: Final = 400
JOIN_S_MAX: Final = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    options = make_parser().parse_args(argv)
    ray = ray_is_there() and not options.no_ray
    narrator = Narrator(sys.stderr if options.json == "-" else sys.stdout)
    outcome = Outcome("local Ray" if ray else "plain processes, without Ray")
    try:
        with signals_interrupt(), _folder(options.folder) as folder:
            Demo(folder, ray, options, narrator, outcome).run()
    except KeyboardInterrupt:
        narrator.say("interrupted; everything that was started has been ended")
        return 130
    except (SofsError, TimeoutError, OSError) as error:
        if not outcome.under_way:
            narrator.say(f"the demo could not be run: {error}")
            if ray:
                narrator.say("`sofs demo --no-ray` needs no Ray, and less of the machine")
            return 3
        outcome.broken.append(f"the demo could not go on: {error}")
    outcome.seconds = time.monotonic() - narrator.began
    outcome.judge()
    print_outcome(outcome, narrator)
    if options.json:
        write_json(outcome, options.json)
    if not outcome.kept:
        return 1
    if not outcome.faults:
        narrator.say("no fault was applied: the machine is busy; give more --seconds")
        return 3
    return 0


EXAMPLES: Final = """\
examples:
  sofs demo                    three nodes on a local Ray cluster, killed and frozen under load
  sofs demo --short --no-ray   the same in less than a minute, with plain processes
  sofs demo --json facts.json  with all facts for programs

Exit status: 0 no error was seen and nothing was lost, 1 a promise was broken.
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="sofs demo",
        description="Start a cluster of three nodes on this machine, run a SQLite bank and a copy\n"
        "of the Python standard library on it, kill and freeze its processes meanwhile, and check\n"
        "that no error was seen and nothing was lost.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--no-ray", action="store_true", help="plain processes instead of a local Ray cluster"
    )
    parser.add_argument(
        "--short",
        action="store_true",
        help=f"few faults and {SHORT_FILES} files of the tree: the part that takes no patience",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"time for all of it (default: {SECONDS:.0f}, with --short {SHORT_SECONDS:.0f})",
    )
    parser.add_argument(
        "--rounds", type=int, default=1, help="how often each fault comes (default: %(default)s)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="an empty folder for the volume, which stays (default: a "
        "temporary one, which is removed)",
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE",
        help="write all facts as JSON to FILE, or to standard output",
    )  # fmt: skip
    return parser


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    made = Path(tempfile.mkdtemp(prefix="sofs-demo-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


class Demo:
    """One run; fills in ``outcome``."""

    def __init__(
        self,
        folder: Path,
        ray: bool,
        options: argparse.Namespace,
        narrator: Narrator,
        outcome: Outcome,
    ) -> None:
        short = options.short
        seconds = options.seconds or (SHORT_SECONDS if short else SECONDS)
        self._folder = folder
        self._rounds = options.rounds
        self._faults = faults_of(short=short, ray=ray)
        self._files_max = SHORT_FILES if short else None
        self._ray = ray
        self._end = narrator.began + seconds
        self._work_end = self._end - (SHORT_CHECKS_S if short else CHECKS_S)
        self._narrator = narrator
        self._say = narrator.say
        self._outcome = outcome
        self._meter = Meter()
        self._tellers: list[Teller] = []
        self._copiers: list[Copier] = []

    def run(self) -> None:
        self._say(f"starting {NODES} nodes on {self._outcome.cluster} in {self._folder}")
        with contextlib.ExitStack() as stack:
            with self._narrator.during(lambda: "still starting"):
                cluster = stack.enter_context(
                    make_cluster(self._folder / "root", nodes=NODES, ray=self._ray)
                )
            self._say(f"cluster is up: {', '.join(cluster.parts)}")
            self._outcome.under_way = True
            self._work(cluster)
            self._check(cluster)
            self._outcome.worst_failover = worst_failover(cluster.run_dir)
            self._say("checks done; ending the cluster")
            stack.enter_context(self._narrator.during(lambda: "still ending"))

    def _connector(self, cluster: Cluster, number: int) -> Callable[[], Share]:
        """Return what connects a measured client, through the node of that number first."""
        nodes = parts_of(cluster, "node")
        url = cluster.url_from(nodes[number % len(nodes)])
        return lambda: timed_share(connect(url, credential=cluster.credential), self._meter)

    def _work(self, cluster: Cluster) -> None:
        tree = Tree(files_max=self._files_max)
        self._tree = tree
        with self._connector(cluster, 0)() as share:
            found_bank(share)
            tree.make_directories(share)
        self._tellers = [
            Teller(f"teller-{n + 1}", self._connector(cluster, n)) for n in range(TELLERS)
        ]
        nodes = [self._connector(cluster, n) for n in range(COPIERS + 1)]
        self._copiers = [
            Copier(f"copier-{n + 1}", tree, nodes[n], nodes[n + 1]) for n in range(COPIERS)
        ]
        activities: list[Activity] = [*self._tellers, *self._copiers]
        self._say(
            f"{TELLERS} tellers on {min(TELLERS, NODES)} nodes and {COPIERS} copiers of"
            f" {len(tree.entries)} files begin"
        )
        for activity in activities:
            activity.start()
        script = FaultScript(
            cluster, self._meter, activities, self._first_client, self._say, self._faults
        )
        self._outcome.roles_missing = script.roles_missing()
        try:
            with self._narrator.during(self._progress):
                script.run(self._rounds, self._work_end)
                self._finish_copy(activities)
        finally:
            self._outcome.baseline = script.baseline
            self._outcome.faults = script.done
            self._outcome.not_reached = script.not_reached()
            self._outcome.broken += script.broken
            for activity in activities:
                activity.end()
        self._join(activities)
        self._outcome.operations = self._meter.operations

    def _first_client(self) -> Share:
        while (share := self._tellers[0].share) is None:
            if self._tellers[0].errors:
                raise TimeoutError(f"teller-1 could not connect: {self._tellers[0].errors[0].text}")
            time.sleep(0.01)
        return share

    def _finish_copy(self, activities: list[Activity]) -> None:
        """Let the copiers go on while there is time, if files are left."""
        while (
            time.monotonic() < self._work_end
            and len(self._tree.copied()) < len(self._tree.entries)
            and not any(activity.errors for activity in activities)
        ):
            time.sleep(0.1)

    def _join(self, activities: Sequence[Activity]) -> None:
        until = time.monotonic() + JOIN_S_MAX
        for activity in activities:
            activity.join(max(0.0, until - time.monotonic()))
            if activity.is_alive():
                raise TimeoutError(f"{activity.name} is still inside a call")
            self._outcome.errors += activity.errors

    def _progress(self) -> str:
        transfers = sum(len(teller.transfers) for teller in self._tellers)
        compared = sum(copier.compared for copier in self._copiers)
        return (
            f"{transfers} transfers, {len(self._tree.copied())} of {len(self._tree.entries)}"
            f" files copied, {compared} compared"
        )

    def _check(self, cluster: Cluster) -> None:
        outcome, tree = self._outcome, self._tree
        self._say(f"checking bank and audit through another client, by name: {cluster.dns_url}")
        with timed_share(connect(cluster.dns_url, credential=cluster.credential), self._meter) as (
            share
        ):
            outcome.bank = examine_bank(share, self._tellers)
        copied = tree.copied()
        self._say(f"reading {len(copied)} files back through other nodes")
        comparers = [
            Comparer(f"comparer-{n + 1}", copied[n::COMPARERS], self._connector(cluster, n + 2))
            for n in range(COMPARERS)
        ]
        for comparer in comparers:
            comparer.start()
        with self._narrator.during(
            lambda: f"{sum(c.steps for c in comparers)} of {len(copied)} compared"
        ):
            while any(c.is_alive() for c in comparers) and time.monotonic() < self._end:
                time.sleep(0.05)
        for comparer in comparers:
            comparer.end()
        self._join(comparers)
        outcome.tree.files = len(tree.entries)
        outcome.tree.copied = len(copied)
        outcome.tree.copied_bytes = sum(entry.n_bytes for entry in copied)
        outcome.tree.compared = sum(comparer.steps for comparer in comparers)
        outcome.tree.lost = [each for comparer in comparers for each in comparer.different]
