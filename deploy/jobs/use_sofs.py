"""A Ray job that uses SOFS: actors of its own append records to files on a share, then everything
is read back and compared. Kill nodes of SOFS meanwhile: nothing but pauses shall be seen.

    ray job submit --working-dir deploy/jobs \\
        --runtime-env-json '{"env_vars": {"SOFS_CREDENTIAL": "/var/lib/sofs/credential"}}' -- \\
        /opt/sofs/bin/python use_sofs.py --url sofs://127.0.0.11:20445,127.0.0.12:20445/share

The URL is as `sofs up` printed it. The credential is named by the path of its file: what is in a
job's environment can be read by everybody who may look at Ray's dashboard.

Exit status: 0, everything that was acknowledged is there; 1, something is not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from typing import Any

import ray

import sofs

RECORD_BYTES = 4096
LOOK_RECORDS = 16  # Between two looks whether it is over.
READ_RECORDS = 256  # In one read: 1 MiB.
FOLDER = "/jobs"


def record(writer: int, number: int) -> bytes:
    """What a writer appends as its record of that number."""
    return f"{writer}:{number};".encode().ljust(RECORD_BYTES, b".")


@ray.remote(num_cpus=0)
class Writer:
    """A process of this job somewhere in the Ray cluster, with one file that stays open."""

    def run(self, url: str, writer: int, seconds: float, until: str) -> dict[str, Any]:
        longest_s = 0.0
        number = 0
        with sofs.connect(url) as share:
            with share.open(f"{FOLDER}/writer-{writer}", "w+b") as file:
                end = time.monotonic() + seconds
                while number % LOOK_RECORDS or not over(share, end, until):
                    began = time.monotonic()
                    file.append(record(writer, number))
                    longest_s = max(longest_s, time.monotonic() - began)
                    number += 1
            failovers = len(share.failovers())
        return {"records": number, "failovers": failovers, "longest_ms": round(longest_s * 1000)}


def over(share: sofs.Share, end: float, until: str) -> bool:
    """Is the time over, or the file there that says so?"""
    if not until:
        return time.monotonic() >= end
    try:
        share.stat(until)
    except FileNotFoundError:
        return False
    return True


def missing(share: sofs.Share, writer: int, records: int) -> str:
    """What of a writer's file is not as it was acknowledged; "" if nothing is."""
    with share.open(f"{FOLDER}/writer-{writer}", "rb") as file:
        for first in range(0, records, READ_RECORDS):
            numbers = range(first, min(first + READ_RECORDS, records))
            wanted = b"".join(record(writer, number) for number in numbers)
            if file.pread(len(wanted), first * RECORD_BYTES) != wanted:
                return f"writer {writer}: something of records {first} to {numbers.stop - 1}"
        size = file.stat().size
    return "" if size == records * RECORD_BYTES else f"writer {writer}: {size} bytes in the end"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write to a share from a Ray job, and check it.")
    parser.add_argument("--url", required=True, help="as `sofs up` printed it")
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long (default 10)")
    parser.add_argument("--until", default="", help="or until a file of this name is on the share")
    options = parser.parse_args()
    ray.init()  # A job finds its cluster by itself.
    with sofs.connect(options.url) as share:
        with contextlib.suppress(FileExistsError):
            share.mkdir(FOLDER)
        writers = [Writer.remote() for _ in range(options.writers)]
        given = (options.seconds, options.until)
        running = [w.run.remote(options.url, n, *given) for n, w in enumerate(writers)]
        print("writing", flush=True)
        done = ray.get(running)
        wrong = [missing(share, n, facts["records"]) for n, facts in enumerate(done)]
    lost = [text for text in wrong if text]
    print(json.dumps({"writers": done, "lost": lost}), flush=True)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
