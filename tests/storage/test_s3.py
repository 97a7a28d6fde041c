"""The S3 driver against two real services, and what it makes of their failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from s3_servers import BUCKET, Proxy, environment, moto, seaweedfs, weed
from storage_harness import SeededEntropy, VirtualClock, a_claim
from store_conformance import StoreConformance

from sofs.core.record import RecordKind
from sofs.errors import (
    BackendRefused,
    Fenced,
    InvalidParameter,
    ReadOnlyBackend,
    StoreFailed,
    StoreUnknown,
)
from sofs.ports.store import Lost, Store, Won
from sofs.storage import ThreadBlocking, open_fenced
from sofs.storage.probe import attach, run_probe
from sofs.storage.s3 import READ_TRIES_MAX, S3SlotStore, split_url

_NAMES = count()


@pytest.fixture(scope="module", autouse=True)
def _credentials() -> Iterator[None]:
    with environment():
        yield


@pytest.fixture(scope="module")
def seaweed_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if weed() is None:
        pytest.skip("there is no SeaweedFS program for this kind of machine")
    with seaweedfs(tmp_path_factory.mktemp("weed")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def moto_endpoint() -> Iterator[str]:
    with moto() as endpoint:
        yield endpoint


def url_at(endpoint: str) -> str:
    return f"s3://{BUCKET}/run-{next(_NAMES)}?endpoint_url={endpoint}"


class S3Conformance(StoreConformance):
    endpoint = ""

    def make(self) -> Store:
        return S3SlotStore(url_at(self.endpoint))

    def again(self, store: Store) -> Store:
        return S3SlotStore(store.url)


class TestOnSeaweedFS(S3Conformance):
    races = 2  # It takes seconds for eight who want one name.

    @pytest.fixture(autouse=True)
    def _at(self, seaweed_endpoint: str) -> None:
        self.endpoint = seaweed_endpoint


class TestOnMoto(S3Conformance):
    @pytest.fixture(autouse=True)
    def _at(self, moto_endpoint: str) -> None:
        self.endpoint = moto_endpoint


# What fails on the way ---------------------------------------------------------------------------


@pytest.fixture
def proxy(moto_endpoint: str) -> Iterator[Proxy]:
    proxy = Proxy(moto_endpoint)
    yield proxy
    proxy.close()


def once(what: str, wanted: str):
    """A plan that does ``what`` to the first ``wanted`` request, and to its repetition by the HTTP
    client when the connection ends."""
    left = [2 if what in ("lose", "drop") else 1]

    def plan(method: str, path: str) -> str:
        if method == wanted and left[0]:
            left[0] -= 1
            return what
        return ""

    return plan


@pytest.mark.parametrize("what", ["lose", "drop", "503", "409"])
def test_a_create_whose_outcome_is_open_says_so_and_recognises_itself_when_it_is_repeated(
    proxy: Proxy, what: str
) -> None:
    store = S3SlotStore(url_at(proxy.endpoint))
    proxy.plan = once(what, "PUT")
    with pytest.raises(StoreUnknown, match="slot"):
        store.put_if_absent("slot", b"mine")
    sent = sum(method == "PUT" for method, _, _ in proxy.seen)
    assert sent == (2 if what in ("lose", "drop") else 1), "nobody else sends it again for us"
    assert store.put_if_absent("slot", b"mine") == Won()
    assert store.put_if_absent("slot", b"other") == Lost(b"mine")


@pytest.mark.parametrize("what", ["lose", "503"])
def test_reads_are_tried_again_and_fail_definitely_when_it_does_not_help(
    proxy: Proxy, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sofs.storage.s3.READ_RETRY_S", 0)
    store = S3SlotStore(url_at(proxy.endpoint))
    store.put_if_absent("a/key", b"data")
    for call in (
        lambda: store.get("a/key") == b"data",
        lambda: store.read("a/key", 1, 2) == b"at",
        lambda: store.list("a") == ["a/key"],
    ):
        proxy.plan = once(what, "GET")
        assert call()
    proxy.plan = lambda method, path: what
    proxy.seen.clear()
    with pytest.raises(StoreFailed, match="a/key"):
        store.get("a/key")
    assert len(proxy.seen) == READ_TRIES_MAX * (2 if what == "lose" else 1)


def test_a_listing_of_many_pages_is_whole(
    moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sofs.storage.s3.LIST_KEYS", 3)
    store = S3SlotStore(url_at(moto_endpoint))
    keys = [f"folder/{index:02d}" for index in range(10)]
    for key in keys:
        store.put_if_absent(key, b"x")
    assert store.list("folder") == keys


def test_a_log_goes_on_over_a_lost_reply_and_a_zombie_behind_a_stalled_one_is_fenced(
    proxy: Proxy,
) -> None:
    """The owner's put lands, its reply is held; a successor fences the log meanwhile. What the
    owner won is in the sealed log, and its next append is refused."""
    import asyncio

    async def main() -> None:
        blocking = ThreadBlocking()
        store = S3SlotStore(url_at(proxy.endpoint))
        fenced = open_fenced(store, VirtualClock(), SeededEntropy(1), blocking)
        claim = a_claim(1)
        assert await fenced.try_claim(claim) is None
        log = await fenced.open_log(claim, first_sequence=1)
        proxy.plan = once("lose", "PUT")
        first = log.append(RecordKind.ENTRY, [b"first"])
        await log.durable(first.sequence)
        proxy.plan = once("stall", "PUT")
        second = log.append(RecordKind.ENTRY, [b"second"])
        waiting = asyncio.ensure_future(log.durable(second.sequence))
        await asyncio.get_running_loop().run_in_executor(None, proxy.stalled.wait, 30)
        successor = open_fenced(S3SlotStore(store.url), VirtualClock(), SeededEntropy(2), blocking)
        assert await successor.try_claim(a_claim(2)) is None
        sealed = await successor.seal(claim)
        proxy.go.set()
        await waiting  # It was there before the fence: the successor has it.
        assert [bytes(record.payload) for record in sealed.records][:1] == [b"first"]
        with pytest.raises(Fenced):
            third = log.append(RecordKind.ENTRY, [b"third"])
            await log.durable(third.sequence)
        await asyncio.get_running_loop().run_in_executor(None, blocking.close)

    asyncio.run(main())


# Refusals ----------------------------------------------------------------------------------------


def test_a_service_that_ignores_the_condition_is_refused_by_name(proxy: Proxy) -> None:
    """As old S3-alikes do: the header is dropped on the way, so every create overwrites."""
    store = S3SlotStore(url_at(proxy.endpoint))
    put = store._ask

    def without_condition(doing, path, call):
        class Client:
            def __init__(self, s3: object) -> None:
                self._s3 = s3

            def __getattr__(self, name: str):
                return getattr(self._s3, name)

            def put_object(self, **request: object):
                request.pop("IfNoneMatch", None)
                return self._s3.put_object(**request)

        return put(doing, path, lambda s3: call(Client(s3)))

    store._ask = without_condition  # type: ignore[method-assign]
    with pytest.raises(BackendRefused, match="exclusive create"):
        run_probe(store)


def test_a_bucket_that_is_not_there_and_a_service_that_is_not_there_are_refused_with_a_next_step(
    moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreFailed, match="create the bucket"):
        attach(f"s3://no-such-bucket/a?endpoint_url={moto_endpoint}")
    monkeypatch.setattr("sofs.storage.s3.READ_RETRY_S", 0)
    with pytest.raises(StoreFailed, match=r"127\.0\.0\.1:9"):
        attach("s3://bucket/a?endpoint_url=http://127.0.0.1:9")


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://key:secret@bucket/a", "s3://bucket/A!", "s3://bucket/a?region=x", "s3://b/a#f"],
)
def test_an_url_that_is_not_understood_is_refused(url: str) -> None:
    with pytest.raises(InvalidParameter):
        split_url(url)


def test_many_threads_share_one_store(moto_endpoint: str) -> None:
    store = S3SlotStore(url_at(moto_endpoint))
    errors: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for step in range(5):
                key = f"t/{index}-{step}"
                assert store.put_if_absent(key, b"%d" % index) == Won()
                assert store.get(key) == b"%d" % index
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(store.list("t")) == 40


def test_a_service_that_lets_us_read_only_says_so(proxy: Proxy) -> None:
    store = S3SlotStore(url_at(proxy.endpoint))
    from botocore.exceptions import ClientError

    from sofs.storage.s3 import _typed

    reply = {
        "Error": {"Code": "AccessDenied"},
        "ResponseMetadata": {"HTTPStatusCode": 403},
    }
    error = _typed(ClientError(reply, "PutObject"), "create", store.url)
    assert isinstance(error, ReadOnlyBackend)
    assert "allow" in str(error)


def test_the_root_of_a_bucket_is_a_store_too(moto_endpoint: str, tmp_path: Path) -> None:
    store = S3SlotStore(f"s3://{BUCKET}?endpoint_url={moto_endpoint}")
    assert store.put_if_absent(f"root-{next(_NAMES)}/a", b"x") == Won()
    assert any(key.startswith("root-") for key in store.list(""))
