from __future__ import annotations

import itertools

import pytest

from sofs.core.messages import Access, Share
from sofs.core.names import split_path
from sofs.core.share import denies, excludes, needs
from sofs.errors import InvalidName

ATTRIBUTES = Access.READ_ATTRIBUTES | Access.WRITE_ATTRIBUTES


@pytest.mark.parametrize(
    ("path", "names"),
    [("", []), ("/", []), ("/a", ["a"]), ("a/b", ["a", "b"]), ("/é/...", ["é", "..."]),
     ("/" + "n" * 255, ["n" * 255]), ("/" + "é" * 127, ["é" * 127])],
)  # fmt: skip
def test_paths_are_taken_apart(path: str, names: list[str]) -> None:
    assert split_path(path) == names


@pytest.mark.parametrize(
    "path",
    ["//", "/a/", "a//b", "/./a", "/a/..", "/a\0b", "\0", "/\ud800", "/" + "n" * 256,
     "/" + "é" * 128, "/".join(["abcdefg"] * 600)],
)  # fmt: skip
def test_paths_that_could_mean_something_else_are_refused(path: str) -> None:
    with pytest.raises(InvalidName):
        split_path(path)


def test_opens_exclude_each_other_exactly_when_one_needs_what_the_other_denies() -> None:
    pairs = ((Access.READ, Share.READ), (Access.WRITE, Share.WRITE), (Access.APPEND, Share.WRITE),
             (Access.DELETE, Share.DELETE))  # fmt: skip
    accesses = [Access(bits) for bits in range(1, 64)]
    for a, b in itertools.product(accesses, accesses):
        for share_a, share_b in itertools.product(range(8), (0, 3, 7)):
            data_a, data_b = a & ~ATTRIBUTES, b & ~ATTRIBUTES
            expected = bool(data_a and data_b) and any(
                (data_a & access and not share_b & share)
                or (data_b & access and not share_a & share)
                for access, share in pairs
            )
            found = excludes(needs(a), denies(a, share_a), needs(b), denies(b, share_b))
            assert found == expected
    assert denies(ATTRIBUTES, Share.NONE) == 0  # A stat open with share none blocks nobody.
