"""Puts and gets on their way, and how C tells what became of them."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Sequence
from typing import Any, Optional

from . import _store_library as _c
from ._buffers import Borrowed
from ._types import OnAccept, OnGroup, Read, Record, Status


def name_of(name: bytes) -> Any:
    if len(name) != _c.NAME_BYTES:
        raise ValueError(f"a name has {_c.NAME_BYTES} bytes, not {len(name)}")
    return _c.Name.from_buffer_copy(name)


def names_of(names: Sequence[bytes]) -> Any:
    return (_c.Name * len(names))(*map(name_of, names))


def record_of(record: _c.Record) -> Record:
    parent = bytes(record.parent)
    return Record(
        name=bytes(record.name),
        parent=parent if any(parent) else None,
        kind=record.kind,
        metadata=ctypes.string_at(record.metadata, record.metadata_bytes) if record.metadata_bytes else b"",
        group_bytes=tuple(record.groups[i].bytes for i in range(record.group_count)),
    )


class Put:
    """A record on its way to the tiers."""

    def __init__(self, borrowed: list[Borrowed]) -> None:
        self._borrowed = borrowed
        self._ended = threading.Event()
        self._status = Status.OK
        self.message = ""  # why, once the status is not OK

    def _end(self, status: int, message: str) -> None:
        self._borrowed.clear()
        self._status, self.message = Status(status), message
        self._ended.set()

    def wait(self, timeout: Optional[float] = None) -> Status:
        """What became of it: OK is committed in one tier at least. Then its buffers are free. TimeoutError."""
        if not self._ended.wait(timeout):
            raise TimeoutError("the record is not written yet")
        return self._status


class Get:
    """Records on their way from the tiers."""

    def __init__(self, items: Sequence[Read], on_group: Optional[OnGroup], accept: Optional[OnAccept]) -> None:
        self.statuses = [Status.OK] * len(items)  # by item, of its first group that failed so far
        self.on_group, self.accept = on_group, accept
        self.error: Optional[BaseException] = None  # the first that one of these two raised
        self._ended = threading.Event()
        self._borrowed = [Borrowed(item.buffer, writable=True) for item in items]
        self._items = (_c.Read * len(items))()
        for to, item, buffer in zip(self._items, items, self._borrowed):
            to.name = name_of(item.name)
            to.destination, to.bytes = buffer.address, buffer.nbytes
            to.first_group, to.end_group = item.first_group, item.end_group
        self._ticket = ctypes.c_uint64()

    def _accept(self, item: int, record: Record) -> bool:
        try:
            return bool(self.accept and self.accept(item, record))
        except BaseException as error:  # C knows no exceptions; whoever waits gets it
            self.error = self.error or error
            return False

    def _group(self, group: int, statuses: list[int]) -> None:
        for i, status in enumerate(statuses):
            if self.statuses[i] == Status.OK:
                self.statuses[i] = Status(status)
        try:
            if self.on_group:
                self.on_group(group, [Status(status) for status in statuses])
        except BaseException as error:
            self.error = self.error or error

    def _end(self) -> None:
        self._borrowed.clear()
        self._ended.set()

    def wait(self, timeout: Optional[float] = None) -> list[Status]:
        """By item: OK, or why not. Then no buffer is touched any more. TimeoutError; what a callback raised."""
        if not self._ended.wait(timeout):
            raise TimeoutError("the records are not read yet")
        if self.error:
            raise self.error
        return self.statuses


class Callbacks:
    """What is on its way in one store, by number, and the functions that C calls. Outlives the store's handle."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.live: dict[int, Any] = {}
        self.put_done = _c.PutDone(self._put_done)
        self.accept = _c.Accept(self._accept)
        self.group_done = _c.GroupDone(self._group_done)
        self.get_done = _c.Done(self._get_done)

    def add(self, operation: Any) -> int:
        number = next(self._numbers)
        self.live[number] = operation
        return number

    def _put_done(self, number: int, status: int, message: bytes) -> None:
        self.live.pop(number)._end(status, message.decode(errors="replace"))

    def _accept(self, number: int, item: int, record: Any) -> int:
        return self.live[number]._accept(item, record_of(record[0]))

    def _group_done(self, number: int, group: int, statuses: Any, count: int) -> None:
        self.live[number]._group(group, statuses[:count])

    def _get_done(self, number: int) -> None:
        self.live.pop(number)._end()
