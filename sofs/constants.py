"""Limits and numbers with their units, and the relations between them.

A name ends in its unit; a limit ends in ``_MAX``. They are fixed by formats, protocols and the
guarantees; what may differ between clusters is in ``AuthoritySettings``
(``services/authority/env.py``).
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Formats.
FORMAT_VERSION: Final = 1  # Of cluster.json, volume.json, claims, segments, the state schema.
PROTOCOL_VERSION: Final = 1  # Of the frames.
BLOCK_BYTES: Final = 4 * KIB  # Data blocks: file-aligned, one checksum each.
RECORD_ALIGN_BYTES: Final = 64  # Records start on multiples of this in a segment.
SEGMENT_FIRST_BYTES: Final = 4 * MIB  # The first segment of a log: small, so that a start is quick.
SEGMENT_BYTES: Final = 32 * MIB  # Every later one.
LARGE_RECORD_BYTES: Final = (
    256 * KIB
)  # From here on a record goes to a segment that is not zero-filled.

# Messages.
WRITE_BYTES_MAX: Final = 1 * MIB  # One write or append is one record and atomic.
READ_BYTES_MAX: Final = 4 * MIB  # One read reply.
MESSAGE_BYTES_MAX: Final = 4 * MIB + 64 * KIB
FRAME_MESSAGES_MAX: Final = 512
NAME_BYTES_MAX: Final = 255
PATH_BYTES_MAX: Final = 4096
FILE_BYTES_MAX: Final = 2**63 - 1 - BLOCK_BYTES
DIRECTORY_PAGE_ENTRIES_MAX: Final = 1024
LOCK_RANGES_MAX: Final = 64  # In one lock or unlock request.
LOCK_WAIT_MS_MAX: Final = 60_000  # Of one lock request; a client that wants longer asks again.

LOCK_WAITERS_MAX: Final = 1024  # Requests that wait for locks of one file.
WRITE_PARTS_MAX: Final = 256  # Ranges in one write of several.

# Tables.
CLIENTS_MAX: Final = 10_000  # A volume.
CLIENT_RESULTS_MAX: Final = 1024  # Unacknowledged operations a client.
WINDOW_OPS_MAX: Final = 1024  # Completed data operations above a handle's watermark.
CLIENT_HANDLES_MAX: Final = 65_536
HANDLE_LOCKS_MAX: Final = 1024
CORRUPT_PLACES_MAX: Final = 10_000  # Damaged places a volume remembers; further ones are counted.
CORRUPT_TEXT_BYTES_MAX: Final = 512  # The name of a damaged object.
CORRUPT_REPORT_PLACES_MAX: Final = 64  # In one report.
SHARES_MAX: Final = 1000  # Of a cluster.
SHARES_LOOK_MS: Final = 1000  # Between two looks of a node at the table of shares.
CLIENT_KEEP_MS: Final = 24 * 3600 * 1000  # An idle client's row.

# Data path: how far a node may run ahead of the authority (bounds the tail of a take-over).
UNSENT_AGE_MS_MAX: Final = 1000
UNSENT_BYTES_MAX: Final = 32 * MIB
UNSENT_RECORDS_MAX: Final = 16_384

# Suspicion (R14).
HEARTBEAT_MS: Final = 100
SILENCE_MS: Final = 300  # A standing stream that is silent this long is suspect.
CLIENT_HEDGE_MS: Final = 300
RECALL_MS: Final = 400  # Recall and detach: then the data log is sealed.
SUSPICION_MS_MAX: Final = 5000  # Cap of the doubling limits.
SUSPICION_FORGET_MS: Final = 60_000

assert CLIENT_HEDGE_MS + RECALL_MS < 1000, "a frozen node must be passed within a second (G6)"
assert HEARTBEAT_MS * 2 < SILENCE_MS

# Persistent handles and the resume gate (semantics 1.1, 1.3).
HANDLE_TIMEOUT_DEFAULT_MS: Final = 60_000
HANDLE_TIMEOUT_MS_MAX: Final = 300_000
NOT_KEPT_MS: Final = 1  # Timeout of a handle that is not to outlive its session.
GATE_WINDOW_MS: Final = 60_000
LOADING_MS_MAX: Final = 3_000  # Calls pend so long while an authority loads; then: ask again.
RECONNECT_BACKOFF_MS: Final = 50
RECONNECT_BACKOFF_MS_MAX: Final = 100
WITNESS_RETRY_MS: Final = 60_000
DEADLINE_DEFAULT_MS: Final = 60_000

assert GATE_WINDOW_MS <= HANDLE_TIMEOUT_DEFAULT_MS
assert WRITE_BYTES_MAX % BLOCK_BYTES == 0
assert READ_BYTES_MAX < MESSAGE_BYTES_MAX
assert SEGMENT_FIRST_BYTES >= 2 * (WRITE_BYTES_MAX + 64 * KIB)
