"""`make test`: the suites in processes of their own; a test that failed runs once more, alone.

The suites start real processes on whatever machine this is, and some have limits in seconds (a
client's deadline, a start). A test that fails is reported, run again when nothing else of its
suite runs, and fails for good if it fails again.

Suites that keep one processor busy run beside each other, in two lanes; what the second lane prints
is shown when both are done. Those that are about time, or use both processors themselves, follow
one by one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from typing import IO

Suite = tuple[str, list[str]]

ELSEWHERE = ("adapters", "chaos", "demo", "limits", "models", "ray", "sim", "stateful")
FAST: list[Suite] = [("fast", [f"--ignore=tests/{folder}" for folder in ELSEWHERE])]
BESIDE: list[Suite] = [
    ("models", ["tests/models"]),
    ("stateful", ["tests/stateful"]),
    ("limits", ["tests/limits"]),
]
ALONE: list[Suite] = [
    ("simulator", ["tests/sim"]),
    ("adapters and demo", ["tests/adapters", "tests/demo"]),
    ("chaos", ["tests/chaos"]),
    ("ray", ["tests/ray"]),
]


class Lane:
    """Suites one after the other. What pytest remembers of them is the lane's own; with ``output``,
    which gets what they print, so are the rings of the SDK, of which tests read all there are."""

    def __init__(self, name: str, suites: list[Suite], output: IO[str] | None = None) -> None:
        self.name = name
        self.suites = suites
        self.output = output
        self.failed: list[str] = []

    def run(self) -> None:
        with tempfile.TemporaryDirectory(prefix=f"sofs-tests-{self.name}-") as runtime:
            environment = dict(os.environ)  # noqa: TID251
            if self.output is not None:
                environment["XDG_RUNTIME_DIR"] = runtime
            for name, arguments in self.suites:
                self._say(f"== {name}")
                if self._pytest(arguments, environment) != 0:
                    self._say(f"== {name}: what failed, once more")
                    again = ["--last-failed", "--last-failed-no-failures=none", *arguments]
                    if self._pytest(again, environment) != 0:
                        self.failed.append(name)

    def _say(self, text: str) -> None:
        print(text, file=self.output or sys.stdout, flush=True)

    def _pytest(self, arguments: list[str], environment: dict[str, str]) -> int:
        cache = f"cache_dir=.pytest_cache/{self.name}"
        command = [sys.executable, "-m", "pytest", "-q", "-o", cache, *arguments]
        return subprocess.run(
            command, env=environment, stdout=self.output, stderr=self.output
        ).returncode


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
    failed = [*first.failed, *beside.failed, *alone.failed]
    print("failed twice: " + ", ".join(failed) if failed else "all suites passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
