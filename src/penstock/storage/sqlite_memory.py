"""What SQLite takes in memory for each connection, used or not.

There is a connection per active object, thousands of them, and SQLite's own values are for a program that has a
few: they were almost half of what an object took.
"""

from __future__ import annotations

import apsw

#: SQLite's default, in KiB: what the pages of one database may take in memory.
_PAGES_KIB_MAX = 2_000


def spare_lookaside() -> bool:
    """Let the connections of this process, and of those forked from it, do without SQLite's *lookaside*, 47 KiB
    each of small pieces of memory that are kept at hand while statements are compiled. Without it those come from
    malloc; in `bench.objects` no call became slower by what could be told from noise.

    To be called at the start of a process: SQLite takes this setting only while nothing is open. False, and no
    change, if something is.
    """
    try:
        apsw.shutdown()  # importing apsw has set SQLite up
    except apsw.MisuseError:
        return False
    try:
        apsw.config(apsw.SQLITE_CONFIG_LOOKASIDE, 0, 0)
    finally:
        apsw.initialize()
    return True


def spare_pages(connection: apsw.Connection) -> None:
    """Let an open connection that is in no transaction take memory for pages as it reads them.

    As soon as it reads its first page SQLite takes room for 20 (87 KiB, and touches all of it), or for as many as
    the cache may hold, or, if those are fewer than three, for none; it does so whenever the cache was empty. apsw
    does not pass on the option that would say so for the whole process (SQLITE_CONFIG_PAGECACHE). So the cache is
    made small, emptied, and has a page read into it, before it may grow. Should it be emptied once more, later, the
    room is taken then: that costs memory and nothing else.
    """
    connection.pragma("cache_size", 2)
    connection.pragma("shrink_memory")
    connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    connection.pragma("cache_size", -_PAGES_KIB_MAX)
