"""A client process that a test kills inside a transaction: ``python sqlite_client.py URL CREDENTIAL
PATH INSTANCE HANDLE_TIMEOUT_MS``. It says "inside" when pages of an uncommitted transaction are in
the database file."""

from __future__ import annotations

import sys
import time

import apsw

import sofs
from sofs.adapters import sqlite


def main() -> None:
    url, credential, path, instance, timeout_ms = sys.argv[1:]
    share = sofs.connect(url, credential=credential)
    # With its journal on the share, so that there is something to roll back.
    sqlite.register(
        share,
        "sofs",
        app_instance=instance,
        handle_timeout_ms=int(timeout_ms),
        atomic_commits=False,
    )
    bank = apsw.Connection(path, vfs="sofs")
    bank.execute("PRAGMA cache_size=2")
    bank.execute("BEGIN IMMEDIATE")
    bank.execute("UPDATE account SET cents = cents + 1")
    bank.cache_flush()
    print("inside", flush=True)
    time.sleep(300)


if __name__ == "__main__":
    main()
