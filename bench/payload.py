"""What the benchmarks send: JSON arrays of event-like records of about 170 bytes each.

The records differ, so gzip has real work to do, and there are several bodies per size, so no cache sees the
same bytes all the time. They are the same in every run: the generator has a fixed seed.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

RECORD_BYTES = 170
#: Distinct records per size at least: gzip looks back 32 KiB, about 190 records, and must not find the same again.
RECORDS_MIN = 2_000
#: Distinct bodies per size at least. At 1,000 records they are 11 MB, which the load generator keeps in memory.
BODIES_MIN = 64

_EVENTS = ("page_view", "add_to_cart", "search", "checkout", "sign_in", "play", "pause", "scroll")
_PATHS = ("/", "/products/%d", "/search?q=%d", "/cart/%d", "/account/%d", "/articles/%d/comments")
_COUNTRIES = ("DE", "FR", "US", "IN", "BR", "JP", "NG", "ID")


def record(rng: random.Random) -> bytes:
    path = rng.choice(_PATHS)
    event = {
        "id": f"{rng.getrandbits(64):016x}",
        "event": rng.choice(_EVENTS),
        "at": 1_760_000_000_000 + rng.randrange(100_000_000),
        "user": rng.randrange(1_000_000),
        "path": path % rng.randrange(10_000) if "%d" in path else path,
        "country": rng.choice(_COUNTRIES),
        "ms": round(rng.expovariate(1 / 80), 2),
        "note": "",
    }
    missing = RECORD_BYTES - len(json.dumps(event, separators=(",", ":")))
    event["note"] = f"{rng.getrandbits(512):0128x}"[: max(0, missing)]
    return json.dumps(event, separators=(",", ":")).encode()


def bodies(records: int) -> list[bytes]:
    """Request bodies of `records` records each."""
    rng = random.Random(records)
    count = max(BODIES_MIN, RECORDS_MIN // records)
    return [b"[" + b",".join(record(rng) for _ in range(records)) + b"]" for _ in range(count)]


def write_bodies(folder: Path, records: int) -> Path:
    """One file, a body per line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bodies"
    path.write_bytes(b"\n".join(bodies(records)) + b"\n")
    return path
