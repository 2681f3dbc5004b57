"""A shard's ledger: which rows went into which files.

A *segment* is a range of rows that was sealed together. Its records are in one file or, when the records themselves
say where they belong or a transform changed them, in several, and those that could not be delivered in a
dead-letter file. A segment goes through its states in order, each change in one transaction:

    SEALED      its range and its ULID are fixed
    PREPARED    its files are fixed: their keys, and where their bytes come from
    DELIVERED   all of them are in the bucket
    FREED       its rows are gone; what is left is the proof of where its records are

When records do not choose their file, the file is fixed with the seal, and SEALED is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Literal

from msgspec import Struct, json
from msgspec.structs import replace

from penstock.base.errors import NotFound
from penstock.base.limits import LEDGER_SEGMENTS_MAX
from penstock.objects.sql import SystemSql

FileKind = Literal["data", "dead"]

TABLES = """
CREATE TABLE IF NOT EXISTS segments (
  ulid TEXT PRIMARY KEY,
  state INTEGER NOT NULL,
  first_sequence INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL,
  first_record INTEGER NOT NULL,   -- the shard's records are numbered from 1
  records INTEGER NOT NULL,
  bytes INTEGER NOT NULL,          -- as they were received, NDJSON
  received_ms INTEGER NOT NULL,    -- of its first row
  sealed_ms INTEGER NOT NULL,
  delivered_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS unfinished ON segments (ulid) WHERE state < 3;
CREATE TABLE IF NOT EXISTS files (
  segment TEXT NOT NULL,
  key TEXT NOT NULL,
  kind TEXT NOT NULL,              -- data, dead
  records INTEGER NOT NULL,
  bytes INTEGER NOT NULL,          -- before compression
  spool TEXT,                      -- where its bytes are until it is delivered; NULL: they are made from the rows
  delivered INTEGER NOT NULL,
  size_bytes INTEGER,              -- of the object in the bucket
  sha256 TEXT,                     -- likewise
  replayed_ms INTEGER,             -- when all records of a dead-letter file had been sent again
  replay TEXT,                     -- JSON: of those reasons whose records were: when that began, or 0 if it is done
  reasons TEXT,                    -- JSON: a dead-letter file's records by reason
  PRIMARY KEY (segment, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  ledger_from_record INTEGER NOT NULL, -- what was delivered before is not in the ledger any more
  files INTEGER NOT NULL, file_bytes INTEGER NOT NULL,
  delivered_records INTEGER NOT NULL, dead_records INTEGER NOT NULL
) STRICT;
INSERT INTO totals VALUES (0, 1, 0, 0, 0, 0) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS dead_totals (
  reason TEXT PRIMARY KEY,
  records INTEGER NOT NULL         -- of delivered dead-letter files
) STRICT, WITHOUT ROWID;
"""


#: In `LedgerFile.replay`.
REPLAYED = 0


class State(IntEnum):
    SEALED = 0
    PREPARED = 1
    DELIVERED = 2
    FREED = 3


class Segment(Struct, frozen=True):
    """Its rows are `first` to `last`, its records `first_record` to `first_record + records - 1` of the shard."""

    ulid: str
    state: State
    first: int
    last: int
    first_record: int
    records: int
    bytes: int
    received_ms: int
    sealed_ms: int
    delivered_ms: int | None


class LedgerFile(Struct, frozen=True):
    """`size_bytes` and `sha256` are those of the object in the bucket, known once it is made. `reasons`: how many
    records of a dead-letter file are dead by each reason; `replay`: when sending those of a reason again began, or
    `REPLAYED`."""

    segment: str
    key: str
    kind: FileKind
    records: int
    bytes: int
    spool: str | None = None
    delivered: bool = False
    size_bytes: int | None = None
    sha256: str | None = None
    replayed_ms: int | None = None
    replay: dict[str, int] = {}
    reasons: dict[str, int] = {}


class Totals(Struct, frozen=True):
    """Of a shard since it was made. `ledger_from_record`: the first record that the ledger still tells of.
    `dead_reasons`: the dead records by reason."""

    ledger_from_record: int = 1
    files: int = 0
    file_bytes: int = 0
    delivered_records: int = 0
    dead_records: int = 0
    dead_reasons: dict[str, int] = {}


class LedgerPage(Struct, frozen=True):
    """Segments in the order of their ULIDs, which is that of their rows, with their files. `more` if there are
    further ones.

    As it was at that moment: the shard had accepted `accepted_records`, and its ledger told of the records from
    `from_record` on."""

    segments: list[Segment]
    files: list[LedgerFile]
    more: bool
    from_record: int = 1
    accepted_records: int = 0


#: Whether a file is in a ledger, is not, or may have been in what the ledger has forgotten.
Standing = Literal["known", "unknown", "forgotten"]


_SEGMENT = (
    "ulid, state, first_sequence, last_sequence, first_record, records, bytes, received_ms, sealed_ms, delivered_ms"
)
_FILE = "segment, key, kind, records, bytes, spool, delivered, size_bytes, sha256, replayed_ms, replay, reasons"


class Ledger:
    def __init__(self, sql: SystemSql) -> None:
        self._sql = sql
        self._segments: int = sql.exec("SELECT count(*) FROM segments").one()[0]

    def last_sequence(self) -> int | None:
        """The last row that was ever sealed, None if none was."""
        row = self._sql.exec("SELECT last_sequence FROM segments ORDER BY ulid DESC LIMIT 1").first()
        return row[0] if row else None

    def last_ulid(self) -> str | None:
        row = self._sql.exec("SELECT max(ulid) FROM segments").first()
        return row[0] if row else None

    def oldest_unfinished(self) -> Segment | None:
        """The next segment that is not FREED yet."""
        row = self._sql.exec(
            f"SELECT {_SEGMENT} FROM segments WHERE state < {State.FREED:d} ORDER BY ulid LIMIT 1"
        ).first()
        return _segment(row) if row else None

    def files_of(self, ulid: str) -> list[LedgerFile]:
        return [_file(row) for row in self._sql.exec(f"SELECT {_FILE} FROM files WHERE segment = ?1", ulid)]

    def spooled(self) -> list[str]:
        """The files that wait on the local disk."""
        rows = self._sql.exec(
            "SELECT f.spool FROM files AS f JOIN segments AS s ON s.ulid = f.segment"
            f" WHERE s.state < {State.DELIVERED:d} AND f.spool IS NOT NULL"
        )
        return [row[0] for row in rows]

    def add(self, segment: Segment, files: Iterable[LedgerFile] = ()) -> None:
        s = segment
        self._sql.exec(
            f"INSERT INTO segments ({_SEGMENT}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, NULL)",
            *(
                s.ulid,
                int(s.state),
                s.first,
                s.last,
                s.first_record,
                s.records,
                s.bytes,
                s.received_ms,
                s.sealed_ms,
            ),
        )
        self._segments += 1
        self._add_files(files)

    def prepared(self, segment: Segment, files: Iterable[LedgerFile]) -> None:
        self._add_files(files)
        self._set_state(segment, State.PREPARED)

    def delivered(self, file: LedgerFile, size_bytes: int, sha256: str) -> None:
        """The file is in the bucket. Harmless to say twice."""
        self._sql.exec(
            "UPDATE files SET delivered = 1, size_bytes = ?3, sha256 = ?4 WHERE segment = ?1 AND key = ?2",
            *(file.segment, file.key, size_bytes, sha256),
        )

    def all_delivered(self, segment: Segment, now_ms: int) -> None:
        """All files of the segment are in the bucket: its records are counted, and its rows may be freed."""
        self._sql.exec(
            "UPDATE totals SET files = files + new.n, file_bytes = file_bytes + new.size,"
            " delivered_records = delivered_records + new.data, dead_records = dead_records + new.dead"
            " FROM (SELECT count(*) AS n, ifnull(sum(size_bytes), 0) AS size,"
            "   ifnull(sum(iif(kind = 'data', records, 0)), 0) AS data,"
            "   ifnull(sum(iif(kind = 'dead', records, 0)), 0) AS dead"
            "   FROM files WHERE segment = ?1) AS new",
            segment.ulid,
        )
        self._sql.exec(
            "INSERT INTO dead_totals SELECT r.key, sum(r.value) FROM files, json_each(files.reasons) AS r"
            " WHERE segment = ?1 AND reasons IS NOT NULL GROUP BY r.key"
            " ON CONFLICT (reason) DO UPDATE SET records = records + excluded.records",
            segment.ulid,
        )
        self._sql.exec("UPDATE segments SET delivered_ms = ?2 WHERE ulid = ?1", segment.ulid, now_ms)
        self._set_state(segment, State.DELIVERED)

    def freed(self, segment: Segment) -> None:
        """The segment's rows are gone. The oldest entry of a ledger that is full goes too."""
        self._set_state(segment, State.FREED)
        if self._segments > LEDGER_SEGMENTS_MAX:
            self._forget_oldest()

    def page(self, after: str, limit: int) -> LedgerPage:
        """Up to `limit` segments with a ULID above `after`."""
        rows = self._sql.exec(
            f"SELECT {_SEGMENT} FROM segments WHERE ulid > ?1 ORDER BY ulid LIMIT ?2", after, limit + 1
        ).to_list()
        segments = [_segment(row) for row in rows[:limit]]
        files: list[LedgerFile] = []
        if segments:
            files = [
                _file(row)
                for row in self._sql.exec(
                    f"SELECT {_FILE} FROM files WHERE segment BETWEEN ?1 AND ?2 ORDER BY segment, key",
                    *(segments[0].ulid, segments[-1].ulid),
                )
            ]
        return LedgerPage(segments, files, len(rows) > limit)

    def standing(self, segment: str, key: str) -> Standing:
        """Of the file with this key, whose segment has this ULID."""
        if self._sql.exec("SELECT 1 FROM files WHERE segment = ?1 AND key = ?2", segment, key).first():
            return "known"
        oldest: str | None = self._sql.exec("SELECT min(ulid) FROM segments").one()[0]
        forgets = self.totals().ledger_from_record > 1
        return "forgotten" if forgets and (oldest is None or segment < oldest) else "unknown"

    def dead_files(self, since_ms: int, until_ms: int, after: str, limit: int) -> Sequence[LedgerFile]:
        """Dead-letter files that are in the bucket and were not all sent again, of segments whose ULID is above
        `after` that were sealed from `since_ms` to before `until_ms`."""
        rows = self._sql.exec(
            f"SELECT {', '.join('f.' + name for name in _FILE.split(', '))}"
            " FROM files AS f JOIN segments AS s ON s.ulid = f.segment"
            " WHERE f.segment > ?1 AND f.kind = 'dead' AND f.delivered AND f.replayed_ms IS NULL"
            " AND s.sealed_ms >= ?2 AND s.sealed_ms < ?3 ORDER BY f.segment LIMIT ?4",
            *(after, since_ms, until_ms, limit),
        )
        return [_file(row) for row in rows]

    def replay_begun(self, segment: str, key: str, reasons: Iterable[str], now_ms: int) -> dict[str, int]:
        """A dead-letter file's records of these reasons are about to be sent again. Gives, for
        each reason, when that first began, or `REPLAYED`."""
        replay = self._file(segment, key).replay
        return self._set_replay(segment, key, dict.fromkeys(reasons, now_ms) | replay)

    def replayed(self, segment: str, key: str, reasons: Iterable[str], now_ms: int) -> None:
        """They were sent. Harmless to say twice."""
        file = self._file(segment, key)
        replay = self._set_replay(segment, key, file.replay | dict.fromkeys(reasons, REPLAYED))
        if all(replay.get(reason) == REPLAYED for reason in file.reasons):
            self._sql.exec(
                "UPDATE files SET replayed_ms = ?3 WHERE segment = ?1 AND key = ?2 AND replayed_ms IS NULL",
                *(segment, key, now_ms),
            )

    def _file(self, segment: str, key: str) -> LedgerFile:
        rows = self._sql.exec(f"SELECT {_FILE} FROM files WHERE segment = ?1 AND key = ?2", segment, key)
        row = rows.first()
        if row is None:
            raise NotFound(f"The ledger does not tell of {key} any more.")
        return _file(row)

    def _set_replay(self, segment: str, key: str, replay: dict[str, int]) -> dict[str, int]:
        text = json.encode(replay).decode()
        self._sql.exec("UPDATE files SET replay = ?3 WHERE segment = ?1 AND key = ?2", segment, key, text)
        return replay

    def totals(self) -> Totals:
        reasons: dict[str, int] = dict(self._sql.exec("SELECT reason, records FROM dead_totals ORDER BY reason"))
        return replace(Totals(*self._sql.exec("SELECT * FROM totals").one()[1:]), dead_reasons=reasons)

    def discard_unfinished(self) -> None:
        """Forget what is not in the bucket yet."""
        unfinished = f"SELECT ulid FROM segments WHERE state < {State.DELIVERED:d}"
        self._sql.exec(f"DELETE FROM files WHERE segment IN ({unfinished})")
        self._sql.exec(f"DELETE FROM segments WHERE state < {State.DELIVERED:d}")
        self._sql.exec(f"UPDATE segments SET state = {State.FREED:d}")

    def _add_files(self, files: Iterable[LedgerFile]) -> None:
        for f in files:
            self._sql.exec(
                f"INSERT INTO files ({_FILE}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8, NULL, NULL, ?9)",
                *(f.segment, f.key, f.kind, f.records, f.bytes, f.spool, f.size_bytes, f.sha256),
                json.encode(f.reasons).decode() if f.reasons else None,
            )

    def _set_state(self, segment: Segment, state: State) -> None:
        self._sql.exec("UPDATE segments SET state = ?2 WHERE ulid = ?1", segment.ulid, int(state))

    def _forget_oldest(self) -> None:
        oldest = self.page("", 1).segments[0]
        self._sql.exec("DELETE FROM files WHERE segment = ?1", oldest.ulid)
        self._sql.exec("DELETE FROM segments WHERE ulid = ?1", oldest.ulid)
        self._sql.exec("UPDATE totals SET ledger_from_record = ?1", oldest.first_record + oldest.records)
        self._segments -= 1


def _segment(row: tuple[object, ...]) -> Segment:
    ulid, state, *rest = row
    return Segment(ulid, State(state), *rest)  # type: ignore[arg-type]


def _file(row: tuple[object, ...]) -> LedgerFile:
    values = dict(zip(_FILE.split(", "), row, strict=True))
    for name in ("replay", "reasons"):
        text = values[name]
        values[name] = json.decode(text) if isinstance(text, str) else {}
    return LedgerFile(**{**values, "delivered": bool(values["delivered"])})  # type: ignore[arg-type]
