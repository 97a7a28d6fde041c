"""``python -m tests.models``: explore everything and print the tables.

With ``--write`` they go into docs/MODELS.md. With the names of a model and of a variant: its
shortest counterexample, step by step.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .catalogue import MODELS, page_with, run, run_all, tables

PAGE = Path(__file__).parents[2] / "docs" / "MODELS.md"


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--write"]:
        PAGE.write_text(page_with(PAGE.read_text(), tables(list(run_all()))))
    elif not arguments:
        print(tables(list(run_all())))
    else:
        named = {model.name: model for model in MODELS}
        variant = arguments[1] if len(arguments) > 1 else ""
        if arguments[0] not in named or variant not in ("", *named[arguments[0]].variants):
            print("\n".join(f"{m.name}: {v}" for m in MODELS for v in ("", *m.variants)))
            return 2
        seen = run(named[arguments[0]], variant).found
        print(seen.counterexample or f"{seen.states:,} states, and every property holds")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
