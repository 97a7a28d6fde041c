"""`make test`: the suites in processes of their own; a test that failed runs once more, alone.

The suites start real processes on whatever machine this is, and some have limits in seconds (a
client's deadline, a start). A test that fails is reported, run again when nothing else runs, and
fails for good if it fails again.
"""

from __future__ import annotations

import subprocess
import sys

SUITES = (
    ("fast", ["--ignore=tests/adapters", "--ignore=tests/chaos", "--ignore=tests/demo",
              "--ignore=tests/limits", "--ignore=tests/models", "--ignore=tests/ray",
              "--ignore=tests/stateful"]),
    ("models", ["tests/models"]),
    ("stateful", ["tests/stateful"]),
    ("limits", ["tests/limits"]),
    ("adapters and demo", ["tests/adapters", "tests/demo"]),
    ("chaos", ["tests/chaos"]),
    ("ray", ["tests/ray"]),
)  # fmt: skip


def run(arguments: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *arguments]).returncode


def main() -> int:
    failed = []
    for name, arguments in SUITES:
        print(f"== {name}", flush=True)
        if run(arguments) != 0:
            print(f"== {name}: what failed, once more", flush=True)
            if run(["--last-failed", "--last-failed-no-failures=none", *arguments]) != 0:
                failed.append(name)
    print("failed twice: " + ", ".join(failed) if failed else "all suites passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
