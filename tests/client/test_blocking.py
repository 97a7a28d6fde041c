"""The blocking SDK: file objects, threads, and what is left behind."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from client_rig import Rig, until
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from mini_cluster import DROP

import sofs
from sofs.client.background import loop_thread, stop_loop_thread
from sofs.client.sync import File, Share, connect
from sofs.constants import FILE_BYTES_MAX, MIB
from sofs.core import messages as m


class ThreadedRig:
    """A rig on the client's own loop thread, as LocalHub needs one loop for both sides."""

    def __init__(self, nodes: int = 2) -> None:
        self.loop = loop_thread()

        async def make() -> Rig:
            rig = Rig(nodes)
            await rig.start()
            return rig

        self.rig = self.loop.run(make())
        self.share = self.connect()

    def connect(self) -> Share:
        return connect(self.rig.url, transport=self.rig.hub.transport(), witness=False)

    def close(self) -> None:
        self.share.close()

        async def kill() -> None:
            for node in self.rig.nodes:
                node.kill()
            await until(lambda: len(asyncio.all_tasks()) == 1)

        self.loop.run(kill())
        for node in self.rig.nodes:
            assert not node.crashes, node.crashes


@pytest.fixture
def threaded(no_thread_leaks: None) -> Iterator[ThreadedRig]:
    made = ThreadedRig()
    yield made
    made.close()
    stop_loop_thread()


@pytest.fixture
def share(threaded: ThreadedRig) -> Share:
    return threaded.share


def test_first_use_reads_like_a_file(share: Share) -> None:
    with share.open("/vm", "w+b") as file:
        assert file.write(b"hello world") == 11
        assert file.seek(0) == 0
        assert file.read(5) == b"hello"
        assert file.tell() == 5
        assert file.read() == b" world"
        assert not file.closed
    assert file.closed
    with pytest.raises(ValueError, match="FILE_CLOSED"):
        file.read()


def test_buffered_and_text_wrappers_work_on_a_file(share: Share) -> None:
    with io.BufferedWriter(share.open("/t", "wb")) as out, io.TextIOWrapper(out) as text:
        text.write("one\ntwo\n")
    with io.TextIOWrapper(io.BufferedReader(share.open("/t"))) as text:
        assert list(text) == ["one\n", "two\n"]


def test_eight_threads_write_and_read_their_own_ranges(threaded: ThreadedRig) -> None:
    with threaded.share.open("/a", "w+b") as file:
        blocks = [bytes([i]) * 4096 for i in range(64)]
        barrier = threading.Barrier(8)

        def work(thread: int) -> None:
            barrier.wait()
            for i in range(thread, 64, 8):
                file.pwrite(blocks[i], i * 4096)
                assert file.pread(4096, i * 4096) == blocks[i]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert file.pread(64 * 4096, 0) == b"".join(blocks)


def test_threads_do_not_notice_a_node_that_dies(threaded: ThreadedRig) -> None:
    share, rig = threaded.share, threaded.rig
    with share.open("/a", "w+b") as file:
        started = threading.Barrier(5)

        def work(thread: int) -> list[int]:
            started.wait()
            return [file.append(b"x" * 10) for _ in range(50)]

        with ThreadPoolExecutor(4) as pool:
            results = [pool.submit(work, thread) for thread in range(4)]
            started.wait()
            address = share.facts().address
            threaded.loop.post(lambda: rig.hub.cut(address))
            offsets = [offset for result in results for offset in result.result()]
        assert sorted(offsets) == [10 * i for i in range(200)]
        assert len(rig.volume.executed) == 200
    assert share.failovers()


def test_large_reads_and_writes_go_in_pieces_with_four_in_flight(threaded: ThreadedRig) -> None:
    data = os.urandom(6 * MIB + 123)
    flight = threaded.share._share.core.flight
    deepest = 0
    submit = flight.submit

    def watched(op: Any) -> None:
        nonlocal deepest
        submit(op)
        deepest = max(deepest, len(flight._pending))

    flight.submit = watched  # type: ignore[method-assign]
    with threaded.share.open("/big", "w+b") as file:
        assert file.write(data) == len(data)
        assert deepest == 4
        assert {s for s in threaded.rig.volume.executed} == {(file.handle, i) for i in range(1, 8)}
        assert file.pread(len(data) + 99, 0) == data
        buffer = bytearray(5 * MIB)
        file.seek(1)
        assert file.readinto(buffer) == 5 * MIB
        assert buffer == data[1 : 5 * MIB + 1]
        file.seek(0)
        assert file.read() == data
        assert file.append(data) == len(data)
        assert file.pread(len(data), len(data)) == data
        assert deepest == 4


def test_whole_files_and_names(share: Share) -> None:
    share.makedirs("/a/b/c")
    share.makedirs("/a/b/c", exist_ok=True)
    with pytest.raises(FileExistsError):
        share.makedirs("/a/b/c")
    share.write_file("/a/b/f", b"1")
    with pytest.raises(FileExistsError):
        share.write_file("/a/b/f", b"2", exclusive=True)
    big = os.urandom(5 * MIB)
    share.write_file("/a/big", big)
    assert share.read_file("/a/big") == big
    assert share.listdir("/a") == ["b", "big"]
    assert list(share.walk("/a")) == [
        ("/a", ["b"], ["big"]),
        ("/a/b", ["c"], ["f"]),
        ("/a/b/c", [], []),
    ]
    with pytest.raises(FileExistsError):
        share.rename("/a/big", "/a/b/f")
    share.replace("/a/big", "/a/b/f")
    assert share.stat("/a/b/f").size == 5 * MIB
    assert not share.exists("/a/big")
    assert not share.exists("/a/b/f/under-a-file")
    with pytest.raises(OSError, match="DIRECTORY_NOT_EMPTY"):
        share.rmdir("/a")
    share.set_times("/a/b/f", modified_ns=123)
    assert share.set_attributes("/a/b/f", 32).modified_ns == 123
    share.rmtree("/a")
    assert share.listdir() == []


def test_scandir_goes_through_all_pages(threaded: ThreadedRig) -> None:
    names = [f"{i:05}" for i in range(2500)]
    for name in names:
        threaded.loop.run(_create(threaded.rig, f"/{name}"))
    found = threaded.share.scandir("/")
    assert next(found).name == "00000"
    assert [entry.name for entry in found] == names[1:]


async def _create(rig: Rig, path: str) -> None:
    rig.volume.create(path)


def test_delete_on_close_and_share_modes_are_passed_on(share: Share) -> None:
    with share.open("/tmp", "xb", delete_on_close=True, share=sofs.ShareMode.NONE):
        with pytest.raises(sofs.SharingViolation):
            share.open("/tmp", "rb")
    assert not share.exists("/tmp")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda f: f.pread(1, -1), sofs.InvalidParameter),
        (lambda f: f.pread(-1, 0), sofs.InvalidParameter),
        (lambda f: f.pwrite(b"x", FILE_BYTES_MAX), sofs.InvalidParameter),
        (lambda f: f.truncate(-1), sofs.InvalidParameter),
        (lambda f: f.seek(-1), sofs.InvalidParameter),
        (lambda f: f.seek(0, 9), sofs.InvalidParameter),
        (lambda f: f.lock(-1, 2), sofs.InvalidParameter),
        (lambda f: f.lock_ranges([]), sofs.InvalidParameter),
        (lambda f: f.change_locks(), sofs.InvalidParameter),
        (lambda f: f.pwrite_parts([]), sofs.InvalidParameter),
        (lambda f: f.pwrite_parts([(1, bytes(4096))]), sofs.InvalidParameter),
        (lambda f: f.pwrite_parts([(0, b"short")]), sofs.InvalidParameter),
        (lambda f: f.pwrite_parts([(0, bytes(4096))] * 2), sofs.InvalidParameter),
        (lambda f: f.pwrite_parts([(0, bytes(2**20 + 4096))]), sofs.InvalidParameter),
        (lambda f: f.pwrite("text", 0), TypeError),
        (lambda f: f.pwrite(5, 0), TypeError),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_sent(
    threaded: ThreadedRig, call: Any, error: type[Exception]
) -> None:
    with threaded.share.open("/a", "w+b") as file:
        seen = [len(node.seen) for node in threaded.rig.nodes]
        with pytest.raises(error):
            call(file)
        assert seen == [len(node.seen) for node in threaded.rig.nodes]


@pytest.mark.parametrize("path", ["/a//b", "/./a", "/..", "/a\0", "/" + "x" * 256, "/\udc80"])
def test_bad_names_are_refused_before_anything_is_sent(share: Share, path: str) -> None:
    with pytest.raises(sofs.InvalidName):
        share.open(path, "wb")


@pytest.mark.parametrize("mode", ["r", "w", "rwb", "b", "", "rbb", "r+", "zb"])
def test_modes_that_are_none_are_refused(share: Share, mode: str) -> None:
    with pytest.raises(sofs.InvalidParameter):
        share.open("/a", mode)


def test_wrong_mode_raises_what_files_raise(share: Share) -> None:
    with share.open("/a", "wb") as file:
        with pytest.raises(io.UnsupportedOperation):
            file.read(1)
        with pytest.raises(io.UnsupportedOperation):
            file.readinto(bytearray(1))
    with share.open("/a", "rb") as file:
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        with pytest.raises(io.UnsupportedOperation):
            file.truncate(0)


def test_buffer_changed_after_the_call_does_not_change_what_was_written(share: Share) -> None:
    with share.open("/a", "w+b") as file:
        buffer = bytearray(b"before")
        file.write(memoryview(buffer))
        buffer[:] = b"after!"
        assert file.pread(6, 0) == b"before"


def test_unclosed_file_warns_and_is_closed_in_the_background(threaded: ThreadedRig) -> None:
    files = [threaded.share.open("/a", "wb")]
    with pytest.warns(ResourceWarning, match="unclosed"):
        files.clear()  # No other reference: collected here.
    threaded.loop.run(until(lambda: not threaded.rig.volume.handles))


def test_blocking_call_on_the_loop_thread_is_refused(threaded: ThreadedRig) -> None:
    async def call() -> None:
        threaded.share.stat("/")

    with pytest.raises(sofs.InvalidParameter, match="never end"):
        threaded.loop.run(call())


def test_closed_share_refuses_and_closes_again_without_harm(threaded: ThreadedRig) -> None:
    share = threaded.connect()
    file = share.open("/a", "wb")
    share.close()
    share.close()
    with pytest.raises(sofs.Unavailable):
        share.stat("/")
    with pytest.raises(sofs.Unavailable):
        file.write(b"x")


def test_interrupted_call_leaves_the_file_usable(threaded: ThreadedRig) -> None:
    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    with threaded.share.open("/a", "w+b") as file:
        for node in threaded.rig.nodes:
            node.script = lambda body: DROP if isinstance(body, m.Write) else None
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                file.pwrite(b"abc", 0)
        finally:
            signal.signal(signal.SIGALRM, before)
        for node in threaded.rig.nodes:
            node.script = lambda body: None
        file.pwrite(b"def", 0)
        assert file.read() == b"def"
        assert threaded.rig.volume.executed == [(file.handle, 2)]


def test_share_of_before_a_fork_is_refused_after_it(threaded: ThreadedRig) -> None:
    threaded.loop.pid += 1
    try:
        with pytest.raises(sofs.FileClosed, match="fork"):
            threaded.share.stat("/")
    finally:
        threaded.loop.pid -= 1


def test_import_loads_neither_asyncio_nor_grpc() -> None:
    code = (
        "import sys, sofs; sofs.SofsError; "
        "assert not {'asyncio', 'grpc', 'ray', 'google.protobuf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_had() -> None:
    for name in sofs.__all__:
        assert getattr(sofs, name) is not None
    with pytest.raises(AttributeError):
        sofs.nothing  # noqa: B018


class FileParity(RuleBasedStateMachine):
    """Each step is made on a SOFS file and on one of the operating system; results must agree."""

    threaded: ThreadedRig
    folder: str
    count = 0

    @initialize(mode=st.sampled_from(["r+b", "w+b", "a+b", "x+b", "rb", "wb", "ab", "xb"]))
    def open(self, mode: str) -> None:
        FileParity.count += 1
        self.path = os.path.join(self.folder, f"f{FileParity.count}")
        self.name = f"/f{FileParity.count}"
        if "x" not in mode:
            with open(self.path, "wb") as real:
                real.write(b"0123456789" * 3)
            self.threaded.share.write_file(self.name, b"0123456789" * 3)
        self.real = open(self.path, mode, buffering=0)  # noqa: SIM115
        self.ours = self.threaded.share.open(self.name, mode)

    def both(self, step: Any) -> None:
        outcomes = []
        for file in (self.real, self.ours):
            try:
                outcomes.append(step(file))
            except (OSError, ValueError) as error:
                unsupported = isinstance(error, io.UnsupportedOperation)
                outcomes.append("unsupported" if unsupported else "refused")
        assert outcomes[0] == outcomes[1]

    @rule(size=st.integers(-1, 50))
    def read(self, size: int) -> None:
        self.both(lambda f: f.read(size))

    @rule(size=st.integers(0, 50))
    def readinto(self, size: int) -> None:
        def step(file: Any) -> tuple[int, bytes]:
            buffer = bytearray(size)
            return file.readinto(buffer), bytes(buffer)

        self.both(step)

    @rule(data=st.binary(max_size=40))
    def write(self, data: bytes) -> None:
        self.both(lambda f: f.write(data))

    @rule(offset=st.integers(-20, 60), whence=st.sampled_from([0, 1, 2]))
    def seek(self, offset: int, whence: int) -> None:
        self.both(lambda f: f.seek(offset, whence))

    @rule(size=st.none() | st.integers(-2, 60))
    def truncate(self, size: int | None) -> None:
        self.both(lambda f: f.truncate(size))

    @rule()
    def readline(self) -> None:
        self.both(lambda f: f.readline())

    @rule()
    def flush(self) -> None:
        self.both(lambda f: f.flush())

    @rule()
    def close(self) -> None:
        self.both(lambda f: f.close())

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "ours"):
            self.both(lambda f: f.tell())
            self.both(lambda f: (f.readable(), f.writable(), f.seekable()))
            assert self.real.closed == self.ours.closed

    def teardown(self) -> None:
        if hasattr(self, "ours"):
            self.real.close()
            self.ours.close()
            with open(self.path, "rb") as real:
                assert self.threaded.share.read_file(self.name) == real.read()


def test_writing_nothing_in_append_mode_moves_nothing(threaded: ThreadedRig) -> None:
    with threaded.connect() as share:
        share.write_file("/log", b"x" * 30)
        with share.open("/log", "a+b") as file:
            file.truncate(0)
            file.write(b"")
            assert file.tell() == 30


def test_file_object_behaves_like_a_file_of_the_system(
    threaded: ThreadedRig, tmp_path: Any
) -> None:
    class Parity(FileParity):
        pass

    Parity.threaded, Parity.folder = threaded, str(tmp_path)
    run_state_machine_as_test(
        Parity,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_file_is_what_open_returns(share: Share) -> None:
    with share.open("/a", "wb") as file:
        assert isinstance(file, File)
        assert isinstance(file, io.RawIOBase)
        assert "'/a'" in repr(file)


def test_thread_that_ended_refuses_work_and_forgets_what_it_ran(no_thread_leaks: None) -> None:
    made = ThreadedRig()
    file = made.share.open("/a", "w+b")
    stop_loop_thread()
    assert made.share.closed
    assert made.loop._loop.is_closed()
    with pytest.raises(ValueError, match="FILE_CLOSED"):
        file.write(b"x")
    del file
    stop_loop_thread()
