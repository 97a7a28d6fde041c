"""``python -m sofs.demo``."""

from __future__ import annotations

import sys

from sofs.demo import main

sys.exit(main())
