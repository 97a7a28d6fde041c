"""House rules that no other tool checks: sizes, left-over marks. Each breach with its mend."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

MODULE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
MARKS = ("TO" + "DO", "FIX" + "ME", "X" + "XX")


def breaches(path: Path) -> list[str]:
    """Return the breaches of one file as lines for people."""
    text = path.read_text()
    found = []
    lines = text.count("\n")
    if lines > MODULE_LINES_MAX:
        found.append(f"{path}: {lines} lines; split it, the limit is {MODULE_LINES_MAX}")
    for number, line in enumerate(text.splitlines(), 1):
        if any(mark in line for mark in MARKS):
            found.append(f"{path}:{number}: a left-over mark; do it, or say it in an issue")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                found.append(
                    f"{path}:{node.lineno}: {node.name} has {length} lines; "
                    f"split it, the limit is {FUNCTION_LINES_MAX}"
                )
    return found


def main() -> int:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    found: list[str] = []
    for name in sorted(set(listed)):
        path = Path(name)
        if "_gen" in path.parts or not path.exists():
            continue
        found.extend(breaches(path))
    print("\n".join(found) or "tidy")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
