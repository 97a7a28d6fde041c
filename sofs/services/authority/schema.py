"""Tables of a volume's authority.

Rules. Every table has an explicit non-null primary key (changesets need it) and no AUTOINCREMENT.
Keys are counters and page numbers, never byte offsets: the session extension hashes integers by
their low bits. What belongs to a handle for as long as it lives (share mode, window) stands in its
one row, so that open and close are one row each. ``log_id`` stands for a node incarnation
everywhere: it is given out once an incarnation and is small; 0 means nobody.

- ``meta``     the volume's uuid, and what is cut out of files (``cuts.py``).
- ``counter``  one row: the next number of each kind; numbers are never reused.
- ``inode``    a file or directory. ``pending``: PENDING_* bits. ``parent``/``name``: its one name.
- ``dirent``   (parent, name) -> ino.
- ``extent``   a run of pages of a file; runs of a file never overlap. ``packed``: as in
               ``core/extents.py``.
- ``segment``  how many pages of a data-log segment extents name.
- ``datalog``  a node incarnation and its data log. ``sealed``: last sequence, NULL while it lives.
               ``applied``: through which sequence its records are in these tables.
- ``client``   who may have operations. ``acked``: it has all answers below this op id.
- ``result``   answers of operations that took effect, or tombstones of abandoned ones.
- ``handle``   an open, connected (``log_id`` of its node) or not (0). ``need``/``deny``: see
               ``core/share.py``. The last four columns are its completed window.
- ``lock``     byte-range locks; ``n`` numbers a handle's. Offsets and lengths are 64 bits unsigned,
               stored as decimal text since SQLite's integers are signed.
- ``token``    which node holds which file, in which mode.
- ``corrupt``  damage that was found; see ``damage.py``. ``object``: "" for files.

A table that was added later is made, empty, when an older image is loaded; an older version ignores
changes of a table that it does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SCHEMA_VERSION: Final = 1

PENDING_DISPOSITION: Final = 1  # Delete was set through a handle; it can be taken back.
PENDING_FINAL: Final = 2  # Unlinked, or a delete-on-close handle was closed: final.

SCHEMA: Final[Sequence[str]] = (
    """CREATE TABLE meta(
        name TEXT NOT NULL PRIMARY KEY,
        value BLOB NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE counter(
        id INTEGER NOT NULL PRIMARY KEY,
        ino INTEGER NOT NULL,
        handle INTEGER NOT NULL,
        log INTEGER NOT NULL,
        token INTEGER NOT NULL
    )""",
    """CREATE TABLE inode(
        ino INTEGER NOT NULL PRIMARY KEY,
        directory INTEGER NOT NULL,
        size INTEGER NOT NULL,
        attributes INTEGER NOT NULL,
        created INTEGER NOT NULL,
        modified INTEGER NOT NULL,
        accessed INTEGER NOT NULL,
        changed INTEGER NOT NULL,
        pending INTEGER NOT NULL,
        parent INTEGER NOT NULL,
        name TEXT NOT NULL
    )""",
    """CREATE TABLE dirent(
        parent INTEGER NOT NULL,
        name TEXT NOT NULL,
        ino INTEGER NOT NULL,
        PRIMARY KEY(parent, name)
    ) WITHOUT ROWID""",
    """CREATE TABLE extent(
        file INTEGER NOT NULL,
        page INTEGER NOT NULL,
        pages INTEGER NOT NULL,
        log_id INTEGER NOT NULL,
        segment INTEGER NOT NULL,
        packed BLOB NOT NULL,
        PRIMARY KEY(file, page)
    ) WITHOUT ROWID""",
    """CREATE TABLE segment(
        log_id INTEGER NOT NULL,
        segment INTEGER NOT NULL,
        live INTEGER NOT NULL,
        PRIMARY KEY(log_id, segment)
    ) WITHOUT ROWID""",
    """CREATE TABLE datalog(
        log_id INTEGER NOT NULL PRIMARY KEY,
        incarnation BLOB NOT NULL,
        nonce BLOB NOT NULL,
        node TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        sealed INTEGER,
        applied INTEGER NOT NULL
    )""",
    "CREATE UNIQUE INDEX datalog_incarnation ON datalog(incarnation)",
    """CREATE TABLE client(
        client BLOB NOT NULL PRIMARY KEY,
        principal TEXT NOT NULL,
        acked INTEGER NOT NULL,
        handles INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE result(
        client BLOB NOT NULL,
        op_id INTEGER NOT NULL,
        reply BLOB NOT NULL,
        PRIMARY KEY(client, op_id)
    ) WITHOUT ROWID""",
    """CREATE TABLE handle(
        handle INTEGER NOT NULL PRIMARY KEY,
        client BLOB NOT NULL,
        create_guid BLOB NOT NULL,
        app_instance BLOB NOT NULL,
        ino INTEGER NOT NULL,
        access INTEGER NOT NULL,
        share INTEGER NOT NULL,
        options INTEGER NOT NULL,
        need INTEGER NOT NULL,
        deny INTEGER NOT NULL,
        delete_on_close INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        log_id INTEGER NOT NULL,
        timeout_ms INTEGER NOT NULL,
        watermark INTEGER NOT NULL,
        bitmap BLOB NOT NULL,
        results BLOB NOT NULL,
        abandoned BLOB NOT NULL
    )""",
    "CREATE INDEX handle_ino ON handle(ino)",
    "CREATE INDEX handle_client ON handle(client, create_guid)",
    "CREATE INDEX handle_log ON handle(log_id)",
    """CREATE TABLE lock(
        handle INTEGER NOT NULL,
        n INTEGER NOT NULL,
        ino INTEGER NOT NULL,
        first TEXT NOT NULL,
        length TEXT NOT NULL,
        exclusive INTEGER NOT NULL,
        PRIMARY KEY(handle, n)
    ) WITHOUT ROWID""",
    "CREATE INDEX lock_ino ON lock(ino)",
    """CREATE TABLE token(
        ino INTEGER NOT NULL,
        log_id INTEGER NOT NULL,
        mode INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        PRIMARY KEY(ino, log_id)
    ) WITHOUT ROWID""",
    "CREATE INDEX token_log ON token(log_id)",
    """CREATE TABLE corrupt(
        kind INTEGER NOT NULL,
        file INTEGER NOT NULL,
        page INTEGER NOT NULL,
        object TEXT NOT NULL,
        pages INTEGER NOT NULL,
        log_id INTEGER NOT NULL,
        segment INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        found_by TEXT NOT NULL,
        found_ns INTEGER NOT NULL,
        PRIMARY KEY(kind, file, page, object)
    ) WITHOUT ROWID""",
)
