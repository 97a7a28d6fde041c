"""The extension of a data record: what tail replay reads."""

from __future__ import annotations

import pytest

from sofs.core.record import DATA_EXTENSION_BYTES, DataHeader, DataOp, unpack_data_header
from sofs.errors import FormatRefused, InvariantViolation

PLAIN = DataHeader(7, 5000, 300, 1, 2, 3, 4, 5000, 1, 99, DataOp.WRITE)
PARTS = DataHeader(
    7, 4096, 16384, 1, 2, 3, 4, 4096, 1, 99, DataOp.PARTS, parts=((1, 1), (5, 2), (9, 1))
)


def test_a_header_is_read_back_as_it_was_packed_and_a_plain_one_has_its_old_size() -> None:
    assert unpack_data_header(PLAIN.pack()) == PLAIN
    assert len(PLAIN.pack()) == DATA_EXTENSION_BYTES == 88 - 8
    assert unpack_data_header(PARTS.pack()) == PARTS


def test_the_ranges_of_a_record_say_which_blocks_are_theirs() -> None:
    assert list(PARTS.runs(4)) == [(1, 0, 1), (5, 1, 2), (9, 3, 1)]
    assert PARTS.end == 10 * 4096
    assert list(PLAIN.runs(1)) == [(1, 0, 1)]
    assert PLAIN.end == 5300
    with pytest.raises(InvariantViolation):
        list(PARTS.runs(5))


@pytest.mark.parametrize(
    "extension",
    [
        PLAIN.pack() + bytes(12),  # Ranges behind a record that has none.
        PARTS.pack()[:-1],
        PARTS.pack()[:DATA_EXTENSION_BYTES],
        PLAIN.pack()[:-1],
        PLAIN.pack()[:-8] + bytes([5]) + bytes(7),  # An operation of a later version.
        b"",
    ],
)
def test_what_is_no_header_of_this_version_is_refused(extension: bytes) -> None:
    with pytest.raises(FormatRefused):
        unpack_data_header(extension)
