"""What the store's calls take and give."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

Buffer = Any  # what has the buffer protocol


class Status(enum.IntEnum):
    OK = 0
    INVALID = 1
    NOT_FOUND = 2
    UNSUPPORTED = 3
    CORRUPT = 4
    IO = 5
    EXHAUSTED = 6
    CANCELLED = 7
    UNAVAILABLE = 8
    SLOW = 9
    CONFLICT = 10
    INTERNAL = 11


class Tier(enum.IntEnum):
    NOWHERE = 0
    DISK = 1
    REDIS = 2


class Priority(enum.IntEnum):
    REQUEST = 0
    PREFETCH = 1


class StoreError(Exception):
    """What the store says against a call. `status` is the kind, the text a sentence with a remedy."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Record:
    """What is known of a record without its payload."""

    name: bytes
    parent: Optional[bytes]
    kind: int
    metadata: bytes
    group_bytes: tuple[int, ...]

    @property
    def payload_bytes(self) -> int:
        return sum(self.group_bytes)


@dataclass(frozen=True)
class Found(Record):
    """A record and its verified payload."""

    payload: memoryview

    @property
    def groups(self) -> list[memoryview]:
        ends = list(itertools.accumulate(self.group_bytes))
        return [self.payload[end - size : end] for size, end in zip(self.group_bytes, ends)]


@dataclass(frozen=True)
class Read:
    """One record to be read: `buffer` has the size of the whole payload; groups [first_group, end_group), 0: to the last."""

    name: bytes
    buffer: Buffer
    first_group: int = 0
    end_group: int = 0


@dataclass(frozen=True)
class Stats:
    """Of a tier, since the store was opened; larder_store_tier_stats says what is counted."""

    used_bytes: int
    limit_bytes: int
    pending_bytes: int
    records: int
    hits: int
    misses: int
    read_records: int
    read_bytes: int
    write_records: int
    write_bytes: int
    dropped_writes: int
    evicted_records: int
    bad_records: int
    failures: int
    slow_reads: int
    read_ns: int
    write_ns: int
    healthy: int


OnGroup = Callable[[int, Sequence[Status]], None]
OnAccept = Callable[[int, Record], bool]
