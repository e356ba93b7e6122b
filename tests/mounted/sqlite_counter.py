"""A program that counts in an SQLite database: `python sqlite_counter.py DATABASE NAME TRANSACTIONS`.

Each transaction reads the counter, writes one more, and adds a row that says who did. Several of these at once lose
nothing if, and only if, the locks work, and each sees what the others wrote.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

BUSY_SECONDS = 120.0


def make(database: Path) -> None:
    """An empty database, whose journal is a file that comes and goes."""
    with sqlite3.connect(database) as connection:
        connection.execute("pragma journal_mode = delete")
        connection.execute("create table counter (value integer)")
        connection.execute("insert into counter values (0)")
        connection.execute("create table log (who text, number integer, value integer)")
    connection.close()


def count(database: str, who: str, transactions: int) -> None:
    """Add to the counter so many times."""
    connection = sqlite3.connect(database, timeout=BUSY_SECONDS, isolation_level=None)
    for number in range(transactions):
        connection.execute("begin immediate")
        (value,) = connection.execute("select value from counter").fetchone()
        connection.execute("update counter set value = ?", (value + 1,))
        connection.execute("insert into log values (?, ?, ?)", (who, number, value + 1))
        connection.execute("commit")
    connection.close()


def counted(database: Path) -> tuple[int, int, int, str]:
    """The counter, the rows, the different values in them, and what SQLite thinks of the file."""
    connection = sqlite3.connect(database, timeout=BUSY_SECONDS)
    (value,) = connection.execute("select value from counter").fetchone()
    rows, values = connection.execute("select count(*), count(distinct value) from log").fetchone()
    (integrity,) = connection.execute("pragma integrity_check").fetchone()
    connection.close()
    return value, rows, values, integrity


if __name__ == "__main__":
    count(sys.argv[1], sys.argv[2], int(sys.argv[3]))
