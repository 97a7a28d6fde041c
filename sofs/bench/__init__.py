"""Benchmarks: what SOFS costs beside the same work done directly on the backing folder, and what a
fault costs.

Every row is measured in one run with its direct counterpart and printed as a ratio: absolute
figures of a shared machine mean little. ``sofs bench`` prints the tables; ``--json`` writes the
facts.
"""

from sofs.bench.main import main

__all__ = ["main"]
