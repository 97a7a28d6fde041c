"""A bank in SQLite, and the audit file beside it.

Every transfer is one transaction: two accounts change, and a row says so under the next number.
When SQLite has acknowledged the commit, the teller appends one line with that number to a plain
file that all tellers share. So three things must agree at the end, whatever was killed meanwhile:
the sum of all accounts, the numbers in the table, and the numbers in the file.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import apsw

from sofs.adapters import sqlite
from sofs.client.sync import Share
from sofs.demo.activity import Activity

ACCOUNTS: Final = 100
OPENING_CENTS: Final = 100_000
DATABASE: Final = "/bank.db"
AUDIT: Final = "/audit.log"
BUSY_TIMEOUT_MS: Final = 60_000
PAUSE_S: Final = 0.05  # A teller thinks, or tellers would do little but wait for each other.


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What an application was told is done: ``key`` and when (time.monotonic)."""

    key: str
    at: float


def open_bank(share: Share) -> apsw.Connection:
    connection = sqlite.connect(share, DATABASE, busy_timeout_ms=BUSY_TIMEOUT_MS)
    connection.transaction_mode = "IMMEDIATE"
    return connection


def found_bank(share: Share) -> None:
    """Create the database with its accounts, and the empty audit file."""
    bank = open_bank(share)
    with bank:
        bank.execute("CREATE TABLE account(id INTEGER PRIMARY KEY, cents INTEGER NOT NULL)")
        bank.execute(
            "CREATE TABLE transfer(number INTEGER PRIMARY KEY, teller TEXT, payer INTEGER,"
            " payee INTEGER, cents INTEGER)"
        )
        bank.executemany(
            "INSERT INTO account VALUES(?, ?)", [(n, OPENING_CENTS) for n in range(ACCOUNTS)]
        )
    bank.close()
    share.write_file(AUDIT, b"")


class Teller(Activity):
    """Transfers money through its own client and writes the audit."""

    def __init__(self, name: str, connect: Callable[[], Share]) -> None:
        super().__init__(name)
        self._connect = connect
        self._chance = random.Random(name)
        self.transfers: list[Acknowledged] = []
        self.lines: list[Acknowledged] = []
        self.share: Share | None = None

    def set_up(self) -> None:
        self.share = self._connect()
        self._bank = open_bank(self.share)
        self._audit = self.share.open(AUDIT, "ab")

    def step(self) -> bool:
        payer, payee = self._chance.sample(range(ACCOUNTS), 2)
        cents = self._chance.randrange(1, 10_000)
        with self._bank as bank:
            number = bank.execute("SELECT coalesce(max(number), 0) + 1 FROM transfer").get
            pay = "UPDATE account SET cents = cents + ? WHERE id = ?"
            bank.execute(pay, (-cents, payer))
            bank.execute(pay, (cents, payee))
            bank.execute(
                "INSERT INTO transfer VALUES(?, ?, ?, ?, ?)",
                (number, self.name, payer, payee, cents),
            )
        self.transfers.append(Acknowledged(str(number), time.monotonic()))
        self._audit.append(f"{number} {self.name} {payer} {payee} {cents}\n".encode())
        self.lines.append(Acknowledged(str(number), time.monotonic()))
        self._ending.wait(PAUSE_S)
        return True

    def tear_down(self) -> None:
        assert self.share is not None
        self._bank.close()
        self._audit.close()
        self.share.close()


@dataclass
class BankReport:
    """What is in the bank and the audit file at the end."""

    integrity: str
    cents: int
    accounts: int
    transfers: int
    lines: int
    wrong: list[str]
    lost: list[Acknowledged]

    @property
    def cents_wanted(self) -> int:
        return ACCOUNTS * OPENING_CENTS


def examine_bank(share: Share, tellers: list[Teller]) -> BankReport:
    """Compare database and audit file with what the tellers were told."""
    bank = open_bank(share)
    try:
        integrity = str(bank.pragma("integrity_check"))
        ((cents, accounts),) = bank.execute("SELECT sum(cents), count(*) FROM account")
        rows = {
            str(number): teller
            for number, teller in bank.execute("SELECT number, teller FROM transfer")
        }
    finally:
        bank.close()
    written = Counter(
        line.split()[0] for line in share.read_file(AUDIT).decode().splitlines() if line
    )
    report = BankReport(integrity, cents, accounts, len(rows), sum(written.values()), [], [])
    for teller in tellers:
        report.lost += [a for a in teller.transfers if rows.get(a.key) != teller.name]
        report.lost += [a for a in teller.lines if not written[a.key]]
    _find_wrong(report, rows, written)
    return report


def _find_wrong(report: BankReport, rows: dict[str, str], written: Counter[str]) -> None:
    wrong = report.wrong
    if report.integrity != "ok":
        wrong.append(f"PRAGMA integrity_check: {report.integrity}")
    if (report.cents, report.accounts) != (report.cents_wanted, ACCOUNTS):
        wrong.append(f"{report.accounts} accounts hold {report.cents} cents")
    if sorted(map(int, rows)) != list(range(1, len(rows) + 1)):
        wrong.append("the transfers' numbers have gaps")
    twice = sorted(number for number, count in written.items() if count > 1)
    if twice:
        wrong.append(f"audit lines written more than once: {', '.join(twice[:5])}")
    if set(written) - set(rows):
        wrong.append("the audit has lines of transfers that are not in the database")
    if set(rows) - set(written):
        wrong.append("transfers in the database have no line in the audit")
