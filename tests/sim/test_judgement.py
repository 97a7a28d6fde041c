"""What a judgement counts by itself."""

from __future__ import annotations

import random

from sofs.sim.judgement import count


def test_a_record_is_counted_as_often_as_bytes_count_it_whatever_stands_around_it() -> None:
    draw = random.Random(1)
    for _ in range(2_000):
        text = bytes(draw.choices(b"0.\n", k=draw.randrange(200)))
        part = bytes(draw.choices(b"0.\n", k=draw.randrange(1, 14)))
        assert count(text, part) == text.count(part), (text, part)


def test_a_record_that_is_cut_short_does_not_count() -> None:
    record = b"%08d" % 17 + b"." * 100 + b"\n"
    assert count(record + record[:-1] + record, record) == 2
