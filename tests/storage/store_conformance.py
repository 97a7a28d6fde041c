"""What every driver must do. A driver's tests inherit ``StoreConformance`` and make a fresh
store."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import pytest

from sofs.errors import InvalidParameter, StoreFailed
from sofs.ports.store import Lost, Store, Won
from sofs.storage.probe import RACE_ROUNDS, run_probe


class StoreConformance(ABC):
    """``make`` returns a store on a fresh root; ``again`` a second opener of the same root."""

    races = 10  # Rounds of threads that create one key.

    @abstractmethod
    def make(self) -> Store: ...

    @abstractmethod
    def again(self, store: Store) -> Store: ...

    def test_it_passes_the_probe(self) -> None:
        store = self.make()
        run_probe(store, races=min(self.races, RACE_ROUNDS))
        assert store.list("probes") == []

    def test_the_first_create_wins_and_the_second_gets_its_bytes(self) -> None:
        store = self.make()
        assert store.put_if_absent("claims/volume/1", b"one") == Won()
        assert self.again(store).put_if_absent("claims/volume/1", b"two") == Lost(b"one")
        assert store.get("claims/volume/1") == b"one"

    def test_a_repeated_create_recognises_its_own_bytes(self) -> None:
        store = self.make()
        assert store.put_if_absent("key", b"mine") == Won()
        assert self.again(store).put_if_absent("key", b"mine") == Won()

    def test_of_many_threads_exactly_one_creates_a_key(self) -> None:
        stores = [store := self.make(), self.again(store)]
        for round_ in range(self.races):
            outcomes: list[object] = []
            barrier = threading.Barrier(8)

            def create(
                index: int, key: str = f"race/{round_}", barrier=barrier, outcomes=outcomes
            ) -> None:
                barrier.wait()
                outcomes.append(stores[index % 2].put_if_absent(key, b"thread %d" % index))

            threads = [threading.Thread(target=create, args=(index,)) for index in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            winner = store.get(f"race/{round_}")
            assert outcomes.count(Won()) == 1
            assert outcomes.count(Lost(winner)) == 7

    def test_an_empty_object_is_an_object(self) -> None:
        store = self.make()
        assert store.put_if_absent("empty", b"") == Won()
        assert store.get("empty") == b""
        assert store.put_if_absent("empty", b"x") == Lost(b"")

    def test_missing_objects_are_none_to_get_and_an_error_to_read(self) -> None:
        store = self.make()
        assert store.get("missing/key") is None
        with pytest.raises(StoreFailed, match="missing/key"):
            store.read("missing/key", 0, 10)

    def test_read_returns_the_range_and_less_only_at_the_end(self) -> None:
        store = self.make()
        data = bytes(range(256)) * 20
        store.put_if_absent("object", data)
        assert store.read("object", 1000, 300) == data[1000:1300]
        assert store.read("object", len(data) - 5, 300) == data[-5:]
        assert store.read("object", len(data) + 5, 300) == b""

    def test_list_is_sorted_deep_and_only_of_the_folder(self) -> None:
        store = self.make()
        for key in ("logs/a/2", "logs/a/1", "logs/b/c/3", "logsx/1", "other"):
            store.put_if_absent(key, key.encode())
        assert store.list("logs") == ["logs/a/1", "logs/a/2", "logs/b/c/3"]
        assert store.list("logs/a") == ["logs/a/1", "logs/a/2"]
        assert store.list("logs", after="logs/a/1") == ["logs/a/2", "logs/b/c/3"]
        assert store.list("logs", after="logs/a/10") == ["logs/a/2", "logs/b/c/3"]
        assert store.list("logs/a", after="logs/a/2") == []
        assert store.list("nothing") == []
        assert store.list("") == ["logs/a/1", "logs/a/2", "logs/b/c/3", "logsx/1", "other"]

    def test_delete_removes_and_does_not_mind_what_is_missing(self) -> None:
        store = self.make()
        store.put_if_absent("key", b"1")
        store.delete("key")
        store.delete("key")
        store.delete("folder/key")
        assert store.get("key") is None
        assert store.list("") == []
        assert store.put_if_absent("key", b"2") == Won()

    def test_a_hint_is_overwritten(self) -> None:
        store = self.make()
        store.put_if_absent("claims/volume/1", b"1")
        for text in (b"1", b"22"):
            store.put_hint("claims/volume.hint", text)
            assert store.get("claims/volume.hint") == text

    @pytest.mark.parametrize(
        "key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a/.b", "A", "a b", "a\0"]
    )
    def test_a_bad_key_is_refused_everywhere(self, key: str) -> None:
        store = self.make()
        with pytest.raises(InvalidParameter):
            store.get(key)
        with pytest.raises(InvalidParameter):
            store.put_if_absent(key, b"x")
