"""Larder's store from Python: named, checked bytes on disk and in Redis, for engines that have a cache of their own.

    with Store("cache", limit=8 << 30) as store:
        store.put(name, [keys, values], parent=parent, metadata=tokens)
        here = len(store.match(chain))
        found = store.get(name)  # None: a miss

Payloads are objects with the buffer protocol (bytes, bytearray, memoryview, NumPy arrays), contiguous. Going in they
are copied once or kept until they are written; coming out they are read into the caller's memory. A record is a miss
when it is damaged, lost, late or another tenant's; what is wrong with a call raises StoreError, or TypeError and
ValueError before the store is asked. All methods may be called from any thread; those that wait let other threads run.

include/larder/store.h says what each call does; names are the same. Times are seconds here. Version 0: it may change.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional

from . import _store_library as _c
from ._buffers import Borrowed, allocate
from ._operations import Callbacks, Get, Put, name_of, names_of, record_of
from ._types import Buffer, Found, OnAccept, OnGroup, Priority, Read, Record, Stats, Status, StoreError, Tier

__all__ = ["Found", "Get", "Priority", "Put", "Read", "Record", "Stats", "Status", "Store", "StoreError", "Tier"]


class Store:
    """One or two tiers as one store, the disk the nearer one. A context manager; close() waits for pending writes."""

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        limit: int = 0,
        redis: Optional[str] = None,
        redis_ca: str | os.PathLike[str] | None = None,
        store_key: str | os.PathLike[str] | None = None,
        keyring: str | os.PathLike[str] | None = None,
        most_pending_bytes: int = 0,
    ) -> None:
        """Opens a disk directory, of `limit` bytes at most, a Redis URL, or both. See larder_store_options.

        StoreError: CONFLICT if somebody has the directory open, CORRUPT with another store key than the first one, ...
        """
        self._library = _c.load()
        self._callbacks = Callbacks()
        self._idle = threading.Condition()
        self._calls = 0
        options = _c.Options(
            size=ctypes.sizeof(_c.Options),
            disk_directory=_path(directory),
            disk_limit_bytes=limit,
            redis_url=_text(redis),
            redis_ca_file=_path(redis_ca),
            store_key_file=_path(store_key),
            keyring_file=_path(keyring),
            most_pending_bytes=most_pending_bytes,
        )
        handle = ctypes.c_void_p()
        self._check(self._library.larder_store_open, ctypes.byref(options), ctypes.byref(handle))
        self._handle: Optional[ctypes.c_void_p] = handle
        # Also at the interpreter's end, while callbacks still find one.
        self._finalizer = weakref.finalize(self, _close, self._library, handle, self._callbacks)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for calls of other threads and for pending writes. Later calls raise ValueError; closing twice is fine."""
        with self._idle:
            self._handle = None
            self._idle.wait_for(lambda: self._calls == 0)
        self._finalizer()

    # --- tenants

    def space(self, tenant: str = "") -> bytes:
        """The tenant's id, 16 bytes, to be hashed into names; another one after a wipe."""
        space = ctypes.create_string_buffer(16)
        self._call("space", _text(tenant), space)
        return space.raw

    def wipe(self, tenant: str = "") -> None:
        """Removes all records of the tenant, durably."""
        self._call("wipe", _text(tenant))

    # --- looking

    def match(self, chain: Sequence[bytes], timeout: Optional[float] = None) -> list[Tier]:
        """Where the leading names of the chain are that are here, so its length is how many."""
        leading, tiers = ctypes.c_size_t(), ctypes.create_string_buffer(max(len(chain), 1))
        self._call("match", names_of(chain), len(chain), _ms(timeout), ctypes.byref(leading), tiers)
        return [Tier(tier) for tier in tiers.raw[: leading.value]]

    def describe(
        self, names: Sequence[bytes], *, tenant: str = "", timeout: Optional[float] = None
    ) -> list[Optional[Record]]:
        """By name: what is known of it, or None."""
        found: list[Optional[Record]] = [None] * len(names)

        def visit(_: Any, index: int, record: Any) -> None:
            found[index] = record_of(record[0])

        self._call("describe", _text(tenant), names_of(names), len(names), _ms(timeout), _c.Visit(visit), None)
        return found

    def children(
        self, parent: bytes, limit: int = 64, *, tenant: str = "", timeout: Optional[float] = None
    ) -> list[Record]:
        """At most `limit` records whose parent this is; of each tier the newest first."""
        found: list[Record] = []

        def visit(_: Any, index: int, record: Any) -> None:
            found.append(record_of(record[0]))

        self._call("children", _text(tenant), names_of([parent]), limit, _ms(timeout), _c.Visit(visit), None)
        return found

    # --- writing

    def put(
        self,
        name: bytes,
        groups: Sequence[Buffer],
        *,
        parent: Optional[bytes] = None,
        kind: int = 0,
        metadata: Buffer = b"",
        tenant: str = "",
        copy: bool = True,
    ) -> Put:
        """Writes a record to all tiers a little later; a name that is here already is not written again.

        copy=False keeps the groups instead of copying them: leave them as they are until wait() of what this returns
        has returned. Objects of type bytes, which cannot change, are never copied.
        """
        borrowed = [Borrowed(group) for group in groups]
        about = Borrowed(metadata)
        list_of_groups = (_c.Group * len(borrowed))(*((group.address, group.nbytes) for group in borrowed))
        record = _c.Record(
            size=ctypes.sizeof(_c.Record),
            name=name_of(name),
            parent=name_of(parent) if parent is not None else _c.Name(),
            kind=kind,
            metadata=about.address,
            metadata_bytes=about.nbytes,
            groups=list_of_groups,
            group_count=len(borrowed),
        )
        keep = not copy or all(type(group) is bytes for group in groups)
        put = Put(borrowed if keep else [])
        number = self._callbacks.add(put)
        options = _c.PutOptions(ctypes.sizeof(_c.PutOptions), _text(tenant), keep, self._callbacks.put_done, number)
        try:
            self._call("put", ctypes.byref(record), ctypes.byref(options))
        except BaseException:
            self._callbacks.live.pop(number, None)
            raise
        return put

    def flush(self) -> None:
        """Returns when everything that was put before is committed or dropped."""
        self._call("flush")

    # --- reading

    def get(
        self, name: bytes, *, tenant: str = "", timeout: Optional[float] = None, priority: Priority = Priority.REQUEST
    ) -> Optional[Found]:
        """The record with its payload in new memory, or None: a miss."""
        return self.get_many([name], tenant=tenant, timeout=timeout, priority=priority)[0]

    def get_many(
        self,
        names: Sequence[bytes],
        *,
        tenant: str = "",
        timeout: Optional[float] = None,
        priority: Priority = Priority.REQUEST,
    ) -> list[Optional[Found]]:
        """By name, in one batch: the record with its payload in new memory, or None. The timeout counts twice: their
        sizes are asked for first."""
        found: list[Optional[Found]] = [None] * len(names)
        here, reads = [], []
        for index, record in enumerate(self.describe(names, tenant=tenant, timeout=timeout)):
            if record is not None:
                here.append((index, record))
                reads.append(Read(record.name, allocate(record.payload_bytes)))
        statuses = self.get_into(reads, tenant=tenant, timeout=timeout, priority=priority)
        for (index, record), read, status in zip(here, reads, statuses):
            if status == Status.OK:
                found[index] = Found(**vars(record), payload=read.buffer)
        return found

    def get_into(
        self,
        items: Sequence[Read],
        *,
        tenant: str = "",
        timeout: Optional[float] = None,
        priority: Priority = Priority.REQUEST,
        on_group: Optional[OnGroup] = None,
        accept: Optional[OnAccept] = None,
    ) -> list[Status]:
        """Reads into the items' buffers and waits. By item: OK, or what became of its first group that failed.

        on_group(group, statuses) is called as soon as a group is final in all items, in order; accept(item, record)
        before an item's first group: whether it is what was meant. Both come from a thread of the store, must be quick,
        and must not call the store; what they raise is raised here at the end.
        """
        get = Get(items, on_group, accept)
        number = self._callbacks.add(get)
        statuses = (ctypes.c_int * len(items))()
        options = self._get_options(get, number, tenant, timeout, priority)
        try:
            self._call("get", get._items, len(items), ctypes.byref(options), statuses)
        finally:
            self._callbacks.live.pop(number)
        if get.error:
            raise get.error
        return [Status(status) for status in statuses]

    def start_get(
        self,
        items: Sequence[Read],
        *,
        tenant: str = "",
        timeout: Optional[float] = None,
        priority: Priority = Priority.REQUEST,
        on_group: Optional[OnGroup] = None,
        accept: Optional[OnAccept] = None,
    ) -> Get:
        """As get_into, without waiting: that is for wait() of what this returns."""
        get = Get(items, on_group, accept)
        number = self._callbacks.add(get)
        options = self._get_options(get, number, tenant, timeout, priority)
        options.group_done, options.done = self._callbacks.group_done, self._callbacks.get_done
        try:
            self._call("get_start", get._items, len(items), ctypes.byref(options), ctypes.byref(get._ticket))
        except BaseException:
            self._callbacks.live.pop(number, None)
            raise
        return get

    def cancel(self, get: Get) -> None:
        """What has not come yet is CANCELLED soon; wait() returns as always."""
        try:
            self._call("cancel", get._ticket)
        except StoreError as error:
            if error.status != Status.NOT_FOUND:  # it has ended
                raise

    # --- keeping and removing

    def touch(self, names: Sequence[bytes]) -> None:
        """These were used elsewhere and stay longer."""
        self._call("touch", names_of(names), len(names))

    def pin(self, name: bytes, seconds: float) -> None:
        """Not evicted from the disk for so long; 0 ends a pin. StoreError: NOT_FOUND, EXHAUSTED."""
        self._call("pin", names_of([name]), math.ceil(seconds * 1000))

    def remove(self, names: Sequence[bytes]) -> None:
        """From all tiers, durably."""
        self._call("remove", names_of(names), len(names))

    def stats(self, tier: Tier = Tier.DISK) -> Stats:
        """StoreError: NOT_FOUND if the store has no such tier."""
        stats = _c.TierStats(size=ctypes.sizeof(_c.TierStats))
        self._call("stats", int(tier), ctypes.byref(stats))
        return Stats(*(getattr(stats, field) for field, _ in _c.TierStats._fields_[1:]))

    # --- below

    def _get_options(
        self, get: Get, number: int, tenant: str, timeout: Optional[float], priority: Priority
    ) -> _c.GetOptions:
        options = _c.GetOptions(
            size=ctypes.sizeof(_c.GetOptions),
            tenant=_text(tenant),
            timeout_ms=_ms(timeout),
            priority=priority,
            user=number,
        )
        if get.accept:
            options.accept = self._callbacks.accept
        if get.on_group:
            options.group_done = self._callbacks.group_done
        return options

    @contextmanager
    def _open_handle(self) -> Iterator[ctypes.c_void_p]:
        with self._idle:
            if self._handle is None:
                raise ValueError("the store is closed")
            handle = self._handle
            self._calls += 1
        try:
            yield handle
        finally:
            with self._idle:
                self._calls -= 1
                self._idle.notify_all()

    def _call(self, name: str, *arguments: Any) -> None:
        with self._open_handle() as handle:
            self._check(getattr(self._library, f"larder_store_{name}"), handle, *arguments)

    @staticmethod
    def _check(function: Any, *arguments: Any) -> None:
        error = _c.Error()
        status = function(*arguments, ctypes.byref(error))
        if status != Status.OK:
            raise StoreError(Status(status), error.message.decode(errors="replace"))


def _close(library: ctypes.CDLL, handle: ctypes.c_void_p, callbacks: Callbacks) -> None:
    library.larder_store_close(handle)


def _text(text: Optional[str]) -> Optional[bytes]:
    if text is not None and "\0" in text:
        raise ValueError("a zero character in a text")
    return None if text is None else text.encode()


def _path(path: str | os.PathLike[str] | None) -> Optional[bytes]:
    encoded = None if path is None else os.fsencode(path)
    if encoded is not None and b"\0" in encoded:
        raise ValueError("a zero character in a path")
    return encoded


def _ms(timeout: Optional[float]) -> int:
    if timeout is None:
        return 0
    if not timeout > 0:
        raise ValueError("a timeout is more than 0 seconds; None is none")
    return max(1, math.ceil(min(timeout * 1000, 2.0**53)))
