"""A process that is killed while it records."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

WRITER = """
import sys
from pathlib import Path
from sofs.core.trace import SpanKind
from sofs.telemetry.ring import open_ring
recorder = open_ring(Path(sys.argv[1]), "victim", "node", 1)
done = recorder.begin(SpanKind.NODE, operation="Read", handle=3)
recorder.end(done, length=512)
while True:
    recorder.note(recorder.begin(SpanKind.NODE, operation="Write", handle=9), "under way")
    if done:
        print("ready", flush=True)
        done = b""
"""


def killed_writer(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline().strip() == "ready"
        process.send_signal(signal.SIGKILL)
        process.wait()
