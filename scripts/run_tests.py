"""`make test`: the suites in processes of their own; a test that failed runs once more, alone.

The suites start real processes on whatever machine this is, and some have limits in seconds (a
client's deadline, a start). A test that fails is reported, run again when nothing else of its
suite runs, and fails for good if it fails again. A run that ends otherwise than by its tests (a
crash of the interpreter, say) fails at once: chance is no excuse for that.

Suites that keep one processor busy run beside each other, in two lanes; what the second lane prints
is shown when both are done. Those that are about time, or use both processors themselves, follow
one by one.

What failed stands at the end again, where one looks first and which a log that keeps only its end
still has: the second report of what failed twice, the names of what failed once, and what a run
that did not come to its end said last.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Final
from xml.etree import ElementTree

Suite = tuple[str, list[str]]

LINES = ("client", "dns_wire", "rpc")
ELSEWHERE = ("adapters", "chaos", "demo", "limits", "models", "ray", "sim", "stateful")
FAST: list[Suite] = [("fast", [f"--ignore=tests/{folder}" for folder in ELSEWHERE + LINES])]
BESIDE: list[Suite] = [  # As long as FAST.
    ("models", ["tests/models"]),
    ("stateful", ["tests/stateful"]),
    ("limits", ["tests/limits"]),
    ("client and lines", [f"tests/{folder}" for folder in LINES]),
]
ALONE: list[Suite] = [
    ("simulator", ["tests/sim"]),
    ("adapters and demo", ["tests/adapters", "tests/demo"]),
    ("chaos", ["tests/chaos"]),
    ("ray", ["tests/ray"]),
]


REPORT_LINES_MAX: Final = 200  # Of the second report of a suite, shown again at the end.
SOME_FAILED: Final = 1  # Pytest's exit status.
WHY_CHARS_MAX: Final = 160  # Of the reason in the line of a test.


class Lane:
    """Suites one after the other. What pytest remembers of them is the lane's own; with ``output``,
    which gets what they print, so are the rings of the SDK, of which tests read all there are."""

    def __init__(self, name: str, suites: list[Suite], output: IO[str] | None = None) -> None:
        self.name = name
        self.suites = suites
        self.output = output
        self.failed: list[str] = []
        self.reports: list[str] = []  # Of what failed twice.
        self.verdicts: list[str] = []  # A line for each test that failed, however often.

    def run(self) -> None:
        with tempfile.TemporaryDirectory(prefix=f"sofs-tests-{self.name}-") as runtime:
            environment = dict(os.environ)  # noqa: TID251
            if self.output is not None:
                environment["XDG_RUNTIME_DIR"] = runtime
            for name, arguments in self.suites:
                self._suite(name, arguments, environment, Path(runtime, "report.xml"))

    def _suite(
        self, name: str, arguments: list[str], environment: dict[str, str], xml: Path
    ) -> None:
        self._say(f"== {name}")
        code, said = self._pytest(arguments, environment, xml)
        if code == 0:
            return
        if code != SOME_FAILED:
            self.verdicts.append(f"no end, status {code}: {name}")
            self._failed(name, f"pytest ended with status {code}, after it said", said.splitlines())
            return
        once = failures(xml)
        self.verdicts += [f"failed once: {test}" for test, _ in once]
        self._say(f"== {name}: what failed, once more")
        again = ["--last-failed", "--last-failed-no-failures=none", *arguments]
        if self._pytest(again, environment, xml)[0] == 0:
            return
        twice = failures(xml)
        self.verdicts += [f"failed twice: {test}" for test, _ in twice]
        lines = [line for _, text in twice for line in text.splitlines()]
        self._failed(name, "what failed twice", lines)

    def _failed(self, name: str, what: str, lines: list[str]) -> None:
        self.failed.append(name)
        self.reports += [f"== {name}: {what}", *lines[-REPORT_LINES_MAX:]]

    def _say(self, text: str) -> None:
        print(text, file=self.output or sys.stdout, flush=True)

    def _pytest(
        self, arguments: list[str], environment: dict[str, str], xml: Path
    ) -> tuple[int, str]:
        """Its exit status, negative for a signal, and what it or the C libraries said on stderr."""
        xml.unlink(missing_ok=True)
        cache = f"cache_dir=.pytest_cache/{self.name}"
        command = [sys.executable, "-m", "pytest", "-q", "-o", cache, f"--junitxml={xml}"]
        with tempfile.TemporaryFile("w+", errors="replace") as stderr:
            code = subprocess.run(
                [*command, *arguments], env=environment, stdout=self.output, stderr=stderr
            ).returncode
            stderr.seek(0)
            said = stderr.read()
        if said:
            self._say(said)
        return code, said


def failures(xml: Path) -> list[tuple[str, str]]:
    """The tests that failed in a run, a line for each and pytest's report of it; none if the run
    itself did not come so far as to write them."""
    if not xml.exists():
        return []
    found = []
    for case in ElementTree.parse(xml).getroot().iter("testcase"):
        for kind in ("failure", "error"):
            for report in case.findall(kind):
                test = f"{case.get('classname')}.{case.get('name')}"
                why = (report.get("message") or "").partition("\n")[0][:WHY_CHARS_MAX]
                found.append((f"{test}: {why}", f"-- {test}\n{report.text or why}"))
    return found


def main() -> int:
    with tempfile.TemporaryFile("w+") as output:
        first, beside = Lane("first", FAST), Lane("beside", BESIDE, output)
        thread = threading.Thread(target=beside.run)
        thread.start()
        first.run()
        thread.join()
        output.seek(0)
        print(output.read(), flush=True)
    alone = Lane("alone", ALONE)
    alone.run()
    lanes = (first, beside, alone)
    failed = [name for lane in lanes for name in lane.failed]
    for lane in lanes:
        print("\n".join(lane.reports), end="\n" if lane.reports else "")
    for lane in lanes:
        print("\n".join(lane.verdicts), end="\n" if lane.verdicts else "")
    print("failed twice: " + ", ".join(failed) if failed else "all suites passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
