"""What one run measured."""

from __future__ import annotations

from dataclasses import dataclass

from bench import load, servers


@dataclass(frozen=True, slots=True)
class Run:
    """One server under one load."""

    server: str
    records: int
    load: load.Load
    #: Processor time of the server's processes during the load, work on files included.
    processor_s: float
    #: Time after the load until every acknowledged record was in a file. A good part of a batch's 5 s is normal;
    #: more means that files are made more slowly than records come in, and a longer load would be refused (429).
    behind_s: float
    memory_bytes: int
    acked: int
    stored: servers.Stored
    #: Records of requests whose outcome the generator did not see: under way at an end, or lost.
    unknown_max: int

    @property
    def counts_agree(self) -> bool:
        return self.acked <= self.stored.records <= self.acked + self.unknown_max
