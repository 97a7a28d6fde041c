"""Names of shares, and tables of them as objects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofs.core.share_table import (
    SHARE_NAME_CHARS_MAX,
    ShareEntry,
    ShareTable,
    check_share_name,
    decode_table,
    encode_table,
    order_of,
    table_key,
)
from sofs.errors import Corrupt, FormatRefused, InvalidName

TABLE = ShareTable(3, 4, (ShareEntry("Über", "v1"), ShareEntry("logs", "v2", True, False)))


@pytest.mark.parametrize("name", ["a", "VM disks", "Ü" * SHARE_NAME_CHARS_MAX, "a.b", "c$"])
def test_a_share_name_may_be(name: str) -> None:
    assert check_share_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a/b", "a\\b", "c:", "a\0", "\n", " a", "a ", ".", "..", "x" * 81, "a?", "\ud800"]
)
def test_a_share_name_may_not_be(name: str) -> None:
    with pytest.raises(InvalidName):
        check_share_name(name)


def test_a_share_is_found_in_whatever_case_and_by_its_whole_name_only() -> None:
    assert TABLE.find("üBER") == TABLE.shares[0]
    assert TABLE.find("LOGS") == TABLE.shares[1]
    assert TABLE.find("log") is None


def test_a_table_survives_being_written_and_read() -> None:
    assert decode_table(encode_table(TABLE), "key") == TABLE


def test_damage_anywhere_in_a_table_is_told() -> None:
    data = encode_table(TABLE)
    for at in range(len(data) - 1):
        with pytest.raises(Corrupt):
            decode_table(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "key")
    with pytest.raises(Corrupt):
        decode_table(data[: len(data) // 2], "key")


def test_a_table_of_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sofs.core.share_table.FORMAT_VERSION", 99)
    data = encode_table(TABLE)
    monkeypatch.undo()
    with pytest.raises(FormatRefused):
        decode_table(data, "key")


ORDERS = st.tuples(st.integers(0, 2**63), st.integers(0, 2**63))


@given(ORDERS, ORDERS)
def test_names_of_tables_sort_as_the_tables_do(one: tuple[int, int], two: tuple[int, int]) -> None:
    assert order_of(table_key(*one)) == one
    assert (table_key(*one) < table_key(*two)) == (one < two)


@pytest.mark.parametrize("key", ["shares/x", "shares/1-2", "shares/", "shares/" + "0" * 41])
def test_other_names_are_no_tables(key: str) -> None:
    assert order_of(key) is None
