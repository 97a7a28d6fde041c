"""``python -m sofs`` is the `sofs` command."""

from __future__ import annotations

import sys

from sofs.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
