"""What the state machine draws: few names, few offsets, so that operations meet."""

from __future__ import annotations

from typing import Final

from fs_world import AUTHORITIES, NODES, Trouble
from hypothesis import strategies as st

from sofs.core.messages import Share

CLIENTS: Final = 3
HANDLES_MAX: Final = 12

PATHS: Final = ("/a", "/b", "/d", "/d/a", "/d/b", "/d/c", "/d/c/a", "/")
spots = st.integers(0, 4 * len(PATHS) - 1)  # See ``_path``.
clients = st.integers(0, CLIENTS - 1)
picks = st.integers(0, HANDLES_MAX - 1)
modes = st.sampled_from(["r+b", "rb", "a+b", "w+b", "x+b", "wb", "ab", "xb"])
shares = st.sampled_from(["rwd", "rwd", "rw", "r", "", "rd"])
apps = st.sampled_from([0, 0, 0, 1, 2])
offsets = st.sampled_from([0, 1, 2, 4, 100, 4090, 4096, 5000, 12288])
lengths = st.sampled_from([1, 2, 3, 100, 4095, 4096, 4097, 9000])
ranges = st.tuples(
    st.sampled_from([0, 0, 1, 4096]), st.sampled_from([1, 1, 2, 5000, 0]), st.booleans()
)
deletes = st.sampled_from(["", "", "later", "on close"])  # Whether it may, and does at once.
times = st.integers(1, 2**40)
attributes = st.sampled_from([None, None, 0, 0, 1, 2])  # None: set the times.
SHARES: Final = {"r": Share.READ, "w": Share.WRITE, "d": Share.DELETE}
PARTS: Final = (*AUTHORITIES, *(f"node-{n + 1}" for n in range(NODES)))
delays_us = st.sampled_from([600, 800, 1_000, 400, 200, 1_500, 3_000, 0])
parts = st.sampled_from([*PARTS, "serving", "serving", "serving"])
faults = st.builds(Trouble, st.sampled_from(["kill", "kill", "freeze"]), parts, delays_us)
moves = st.builds(Trouble, st.just("move"), st.just(""), delays_us)
troubles = st.one_of(faults, moves)
maybe = st.one_of(st.none(), troubles)  # What strikes in the middle of the call.
