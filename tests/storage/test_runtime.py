"""Threads: order, hand-over, limits, ends."""

from __future__ import annotations

import asyncio
import threading

import pytest

from sofs.errors import LimitExceeded, StoreFailed, Unavailable
from sofs.storage import SystemClock, SystemEntropy, ThreadBlocking
from sofs.storage import runtime as runtime_module


def with_blocking(main, **options):
    async def body():
        blocking = ThreadBlocking(**options)
        try:
            return await main(blocking)
        finally:
            await asyncio.get_running_loop().run_in_executor(None, blocking.close)

    return asyncio.run(body())


def test_a_lane_runs_its_calls_in_order_on_one_thread_with_nothing_between_steps() -> None:
    async def main(blocking: ThreadBlocking) -> None:
        seen: list[tuple[int, int, int]] = []

        def step(call: int, index: int):
            return lambda: seen.append((threading.get_ident(), call, index))

        await asyncio.gather(
            *(
                blocking.run("lane", *(step(call, index) for index in range(3)))
                for call in range(50)
            )
        )
        assert [(call, index) for _, call, index in seen] == [
            (call, index) for call in range(50) for index in range(3)
        ]
        assert len({thread for thread, _, _ in seen}) == 1
        assert seen[0][0] != threading.get_ident()

    with_blocking(main)


def test_results_come_back_in_step_order_and_the_first_error_ends_the_call() -> None:
    async def main(blocking: ThreadBlocking) -> None:
        assert await blocking.run("", lambda: 1, lambda: "two") == [1, "two"]
        later: list[int] = []

        def fail() -> None:
            raise StoreFailed("no")

        for lane in ("", "lane"):
            with pytest.raises(StoreFailed):
                await blocking.run(lane, lambda: 1, fail, lambda: later.append(1))
        assert later == []

    with_blocking(main)


def test_the_pool_runs_calls_at_the_same_time_and_lanes_do_not_wait_for_each_other() -> None:
    async def main(blocking: ThreadBlocking) -> None:
        barrier = threading.Barrier(5)
        calls = [blocking.run("", barrier.wait) for _ in range(3)]
        calls += [blocking.run(lane, barrier.wait) for lane in ("a", "b")]
        await asyncio.wait_for(asyncio.gather(*calls), 20)

    with_blocking(main)


def test_the_pool_is_bounded_and_queues_what_exceeds_it() -> None:
    async def main(blocking: ThreadBlocking) -> None:
        running, most = 0, 0
        lock, release = threading.Lock(), threading.Event()

        def work() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            release.wait()
            with lock:
                running -= 1

        calls = [asyncio.ensure_future(blocking.run("", work)) for _ in range(10)]
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*calls)
        assert most <= 2

    with_blocking(main, pool_threads=2)


def test_more_waiting_calls_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "PENDING_CALLS_MAX", 3)

    async def main(blocking: ThreadBlocking) -> None:
        release = threading.Event()
        calls = [asyncio.ensure_future(blocking.run("", release.wait)) for _ in range(12)]
        await asyncio.sleep(0)
        with pytest.raises(LimitExceeded):
            await blocking.run("", release.wait)
        release.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, LimitExceeded) for result in results) > 0

    with_blocking(main, pool_threads=1)


def test_an_idle_lane_ends_its_thread_and_starts_again_when_needed() -> None:
    async def main(blocking: ThreadBlocking) -> None:
        [first] = await blocking.run("lane", threading.current_thread)
        await blocking.run("", lambda: first.join(10))
        assert not first.is_alive()
        [second] = await blocking.run("lane", threading.current_thread)
        assert second is not first

    with_blocking(main, lane_idle_s=0.01)


def test_a_cancelled_caller_does_not_stop_its_steps() -> None:
    async def main(blocking: ThreadBlocking) -> None:
        started, release, done = threading.Event(), threading.Event(), threading.Event()

        def first() -> None:
            started.set()
            release.wait()

        task = asyncio.ensure_future(blocking.run("lane", first, done.set))
        await blocking.run("", started.wait)
        task.cancel()
        release.set()
        assert await blocking.run("", lambda: done.wait(10)) == [True]
        with pytest.raises(asyncio.CancelledError):
            await task

    with_blocking(main)


def test_an_unexpected_error_of_a_cancelled_call_is_told_to_the_loop() -> None:
    async def main(blocking: ThreadBlocking) -> None:
        told: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: told.append(context["exception"])
        )
        started, release = threading.Event(), threading.Event()

        def fail() -> None:
            started.set()
            release.wait()
            raise ZeroDivisionError

        task = asyncio.ensure_future(blocking.run("lane", fail))
        await blocking.run("", started.wait)
        task.cancel()
        release.set()
        await blocking.run("lane", lambda: None)
        assert [type(error) for error in told] == [ZeroDivisionError]

    with_blocking(main)


def test_after_close_calls_are_refused_and_queued_ones_were_finished() -> None:
    async def main() -> None:
        blocking = ThreadBlocking()
        seen: list[int] = []
        calls = [
            asyncio.ensure_future(blocking.run("lane", lambda n=n: seen.append(n)))
            for n in range(20)
        ]
        await asyncio.sleep(0)
        blocking.close()
        await asyncio.gather(*calls)
        assert seen == list(range(20))
        with pytest.raises(Unavailable):
            await blocking.run("lane", lambda: None)
        with pytest.raises(Unavailable):
            await blocking.run("", lambda: None)

    asyncio.run(main())


def test_one_port_serves_several_loops() -> None:
    blocking = ThreadBlocking()
    try:
        for number in range(3):
            assert asyncio.run(blocking.run("lane", lambda number=number: number)) == [number]
    finally:
        blocking.close()


def test_clock_and_entropy_are_what_their_ports_say() -> None:
    clock, entropy = SystemClock(), SystemEntropy()
    before = clock.monotonic_ms()
    asyncio.run(clock.sleep_ms(1))
    assert clock.monotonic_ms() >= before
    assert clock.wall_ns() > 1_600_000_000 * 10**9
    assert len(entropy.token(16)) == 16
    assert entropy.token(16) != entropy.token(16)
    assert entropy.stream("a") is entropy.stream("a")
    assert entropy.stream("a") is not entropy.stream("b")


def test_a_brief_call_runs_on_the_callers_thread_until_such_calls_are_slow() -> None:
    async def main(blocking: ThreadBlocking) -> None:
        here = threading.get_ident()
        assert await blocking.run("lane", threading.get_ident, brief=True) == [here]
        assert await blocking.run("lane", threading.get_ident) != [here]
        # The device becomes slow. A few calls on the loop show it.
        for _ in range(20):
            blocking._brief_took(1_000_000)
        assert await blocking.run("lane", threading.get_ident, brief=True) != [here]
        # It recovers: the calls on the thread show that, too.
        for _ in range(100):
            await blocking.run("lane", lambda: None, brief=True)
        assert await blocking.run("lane", threading.get_ident, brief=True) == [here]

    with_blocking(main)


def test_one_slow_call_sends_only_the_next_few_brief_ones_to_the_thread() -> None:
    async def main(blocking: ThreadBlocking) -> None:
        blocking._brief_took(60_000_000_000)
        await blocking.run("lane", lambda: None, brief=True)
        for _ in range(30):
            await blocking.run("lane", lambda: None, brief=True)
        assert await blocking.run("lane", threading.get_ident, brief=True) == [
            threading.get_ident()
        ]

    with_blocking(main)


def test_a_brief_call_goes_behind_what_its_lane_has_queued() -> None:
    async def main(blocking: ThreadBlocking) -> None:
        release = threading.Event()
        order: list[str] = []
        slow = asyncio.ensure_future(
            blocking.run("lane", release.wait, lambda: order.append("first"))
        )
        await asyncio.sleep(0)
        brief = asyncio.ensure_future(
            blocking.run("lane", lambda: order.append("second"), brief=True)
        )
        await asyncio.sleep(0)
        assert order == []
        release.set()
        await asyncio.gather(slow, brief)
        assert order == ["first", "second"]

    with_blocking(main)


def test_a_brief_calls_error_comes_back_and_a_closed_system_refuses_brief_calls() -> None:
    async def main(blocking: ThreadBlocking) -> None:
        def fail() -> None:
            raise StoreFailed("no")

        with pytest.raises(StoreFailed):
            await blocking.run("lane", fail, brief=True)
        await asyncio.get_running_loop().run_in_executor(None, blocking.close)
        with pytest.raises(Unavailable):
            await blocking.run("lane", lambda: None, brief=True)

    with_blocking(main)
