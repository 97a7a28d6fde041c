"""A process that used SOFS ends in silence, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sofs.actors import rundir
from sofs.actors.rundir import RunRecord
from sofs.testing import LocalCluster

NOBODY_ANSWERS_S = 20  # Any other operation waits for 60.
HEAD = """
import asyncio, os, sofs, threading
from sofs.client.aio import connect
URL = os.environ["URL"]
name = f"/{os.getpid()}"
"""
PROGRAMS = {
    "closed": """
with sofs.connect(URL) as share:
    share.write_file(name, b"x")
""",
    "left open": """
share = sofs.connect(URL)
file = share.open(name, "x+b")
file.write(b"x")
""",
    "left open in a coroutine": """
async def main():
    share = await connect(URL)
    await share.write_file(name, b"x")

asyncio.run(main())
""",
    "forks with a share open": """
share = sofs.connect(URL)
file = share.open(name, "x+b")
for number in range(6):
    child = os.fork()
    if not child:
        try:
            sofs.connect(URL)
        except sofs.NotSupported:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    file.write(b"x")
""",
    "forks, and the child ends as programs do": """
share = sofs.connect(URL)
file = share.open(name, "x+b")
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    file.write(b"x")
""",
    "one loop after another beside a busy share": """
share = sofs.connect(URL)
over = threading.Event()

def busy():
    while not over.is_set():
        share.write_file(name, b"x")

thread = threading.Thread(target=busy)
thread.start()

async def main(number):
    other = await connect(URL)
    if number % 2:
        await other.write_file(name + "a", b"x")
    await other.close()

for number in range(20):
    asyncio.run(main(number))
over.set()
thread.join()
""",
}


def run(cluster: LocalCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "URL": cluster.url, "SOFS_CREDENTIAL": cluster.credential}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_ends_says_nothing(cluster: LocalCluster, program: str) -> None:
    done = run(cluster, "-c", HEAD + PROGRAMS[program])
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_program_left_open_does_not_keep_the_next_one_waiting(cluster: LocalCluster) -> None:
    """It would be a minute, until the handle of a client that died times out."""
    program = """
share = sofs.connect(URL)
file = share.open("/left-open", "w+b", deadline_ms=20_000)
"""
    for _ in range(2):
        done = run(cluster, "-c", HEAD + program)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_program_ends_in_silence_when_nobody_answers_its_goodbye(cluster: LocalCluster) -> None:
    program = """
share = sofs.connect(URL)
file = share.open(name, "x+b")
print("open", flush=True)
input()
"""
    environment = {**os.environ, "URL": cluster.url, "SOFS_CREDENTIAL": cluster.credential}
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + program],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            cluster.kill_all()
            said = process.communicate("\n", timeout=NOBODY_ANSWERS_S)[1]
        finally:
            process.kill()
            cluster.revive()
    assert (process.returncode, said) == (0, "")


def test_a_command_that_asks_several_times_says_nothing_on_stderr(cluster: LocalCluster) -> None:
    record = RunRecord(str(cluster.root), "00" * 16, "", 2, cluster.port, 0, 0, "")
    rundir.write_run(cluster.run_dir, record)
    done = run(cluster, "-m", "sofs", "status", "--run-dir", str(cluster.run_dir))
    assert done.stderr == ""
    assert "node-1" in done.stdout
