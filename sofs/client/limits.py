"""The client's own limits and times; those shared with the servers are in ``sofs.constants``."""

from __future__ import annotations

from typing import Final

from sofs.constants import (
    CLIENT_HEDGE_MS,
    CLIENT_RESULTS_MAX,
    HEARTBEAT_MS,
    MIB,
    WINDOW_OPS_MAX,
    WRITE_BYTES_MAX,
)

# In flight and waiting. The channel ends itself at 64 MiB queued and 4096 calls: stay well below.
FLIGHT_OPS_MAX: Final = 2048
FLIGHT_BYTES_MAX: Final = 32 * MIB  # Data of writes sent and of reads asked for.
QUEUED_OPS_MAX: Final = 16_384  # Waiting for admission; beyond it LimitExceeded.
QUEUED_BYTES_MAX: Final = 256 * MIB
METADATA_OPS_MAX: Final = CLIENT_RESULTS_MAX - 64  # The rest is for settling and reclaiming.
DATA_OPS_MAX: Final = WINDOW_OPS_MAX
PIECE_BYTES: Final = WRITE_BYTES_MAX  # Larger reads and writes go in pieces of this size...
PIECES_MAX: Final = 4  # ...so many of them in flight.

# Retrying.
RETRY_MS: Final = 5  # First pause of "same-call"; doubles up to:
RETRY_MS_MAX: Final = 200
SESSION_RETRY_MS: Final = 50  # An operation that a second session refused too; doubles up to:
SESSION_RETRY_MS_MAX: Final = 1000
GOODBYE_MS_MAX: Final = 2000  # Closing in the wake of another error does not wait for longer.
LOCK_WAIT_MS: Final = 2000  # A waiting lock asks anew this often, so that its op id is not held.

# Sessions.
SWEEP_MS: Final = HEARTBEAT_MS // 2  # How often deadlines and silence are looked at.
SHARE_GONE_RETRY_MS: Final = 1000  # After a node said that there is no such share.
CONNECT_MS_MAX: Final = 2000  # Transport, Hello and first answer of one address.
RECLAIM_MS_MAX: Final = 15_000  # While the node answers pings: the authority may be moving.
RECLAIM_HANDLES_MAX: Final = 1024  # In one call; the answer with its grants must fit a message.
WARM_CHECK_MS: Final = 1000  # The standby stream is pinged this often...
WARM_RETRY_MS: Final = 100  # ...and sought anew this often, doubling up to:
WARM_RETRY_MS_MAX: Final = 2000
ADDRESSES_MAX: Final = 256

# Planned moves.
MOVE_PROOF_MS_MAX: Final = 2000  # For a first answer of the authority through the destination.
MOVE_DRAIN_MS_MAX: Final = 30  # The old node's last answers; what it still owes is sent again.
MOVE_MS_MAX: Final = 20_000  # From leaving the old node to a session, on whichever node.
MOVES_WAITING_MAX: Final = 64

HISTORY_MAX: Final = 256  # Failovers remembered for people.

assert SWEEP_MS * 2 <= HEARTBEAT_MS
assert HEARTBEAT_MS < CLIENT_HEDGE_MS
assert MOVE_DRAIN_MS_MAX < CLIENT_HEDGE_MS
assert FLIGHT_BYTES_MAX > PIECES_MAX * PIECE_BYTES
