"""include/larder/store.h for ctypes: the same structs, functions and numbers, and where the library is."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import pathlib
from ctypes import CFUNCTYPE, POINTER, Structure, c_char, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

from ._types import Stats

VERSION = 0
NAME_BYTES = 32
MOST_GROUPS = 64

Name = ctypes.c_uint8 * NAME_BYTES


class Error(Structure):
    _fields_ = [("status", c_int), ("message", c_char * 508)]


class Options(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("disk_directory", c_char_p),
        ("disk_limit_bytes", c_uint64),
        ("redis_url", c_char_p),
        ("redis_ca_file", c_char_p),
        ("store_key_file", c_char_p),
        ("keyring_file", c_char_p),
        ("most_pending_bytes", c_uint64),
    ]


class Group(Structure):
    _fields_ = [("data", c_void_p), ("bytes", c_size_t)]


class Record(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("name", Name),
        ("parent", Name),
        ("kind", c_uint32),
        ("metadata", c_void_p),
        ("metadata_bytes", c_size_t),
        ("groups", POINTER(Group)),
        ("group_count", c_size_t),
    ]


Visit = CFUNCTYPE(None, c_void_p, c_size_t, POINTER(Record))
PutDone = CFUNCTYPE(None, c_void_p, c_int, c_char_p)
Accept = CFUNCTYPE(c_int, c_void_p, c_size_t, POINTER(Record))
GroupDone = CFUNCTYPE(None, c_void_p, c_uint32, POINTER(c_int), c_size_t)
Done = CFUNCTYPE(None, c_void_p)


class PutOptions(Structure):
    _fields_ = [("size", c_size_t), ("tenant", c_char_p), ("keep", c_int), ("done", PutDone), ("user", c_void_p)]


class Read(Structure):
    _fields_ = [
        ("name", Name),
        ("destination", c_void_p),
        ("bytes", c_size_t),
        ("first_group", c_uint32),
        ("end_group", c_uint32),
    ]


class GetOptions(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("tenant", c_char_p),
        ("timeout_ms", c_int64),
        ("priority", c_int),
        ("accept", Accept),
        ("group_done", GroupDone),
        ("done", Done),
        ("user", c_void_p),
    ]


class TierStats(Structure):
    _fields_ = [("size", c_size_t), *((field.name, c_uint64) for field in dataclasses.fields(Stats))]


_E = POINTER(Error)
_NAMES = POINTER(Name)
# All of these return a status.
_CALLS = {
    "open": [POINTER(Options), POINTER(c_void_p), _E],
    "space": [c_void_p, c_char_p, c_char_p, _E],
    "wipe": [c_void_p, c_char_p, _E],
    "match": [c_void_p, _NAMES, c_size_t, c_int64, POINTER(c_size_t), c_char_p, _E],
    "describe": [c_void_p, c_char_p, _NAMES, c_size_t, c_int64, Visit, c_void_p, _E],
    "children": [c_void_p, c_char_p, _NAMES, c_size_t, c_int64, Visit, c_void_p, _E],
    "put": [c_void_p, POINTER(Record), POINTER(PutOptions), _E],
    "flush": [c_void_p, _E],
    "get": [c_void_p, POINTER(Read), c_size_t, POINTER(GetOptions), POINTER(c_int), _E],
    "get_start": [c_void_p, POINTER(Read), c_size_t, POINTER(GetOptions), POINTER(c_uint64), _E],
    "cancel": [c_void_p, c_uint64, _E],
    "touch": [c_void_p, _NAMES, c_size_t, _E],
    "pin": [c_void_p, _NAMES, c_int64, _E],
    "remove": [c_void_p, _NAMES, c_size_t, _E],
    "stats": [c_void_p, c_int, POINTER(TierStats), _E],
}


def find() -> str:
    """Where the library is: LARDER_STORE_LIBRARY, next to this file, in the tree's build/release, or where the system looks."""
    named = os.environ.get("LARDER_STORE_LIBRARY")
    if named:
        return named
    here = pathlib.Path(__file__).resolve().parent
    for folder in (here, here.parent.parent / "build" / "release"):
        if (folder / "liblarder_store.so").is_file():
            return str(folder / "liblarder_store.so")
    return "liblarder_store.so.0"


def load() -> ctypes.CDLL:
    """The library, with its functions declared. ImportError if there is none, or one of another version."""
    path = find()
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"cannot load Larder's store ({error}); build it with `scripts/build release larder_store_c`, "
            "and set LARDER_STORE_LIBRARY to the path of liblarder_store.so"
        ) from error
    library.larder_store_version.restype = c_uint32
    if library.larder_store_version() != VERSION:
        raise ImportError(f"{path} has version {library.larder_store_version()} of the interface, not {VERSION}")
    for name, arguments in _CALLS.items():
        function = getattr(library, f"larder_store_{name}")
        function.argtypes, function.restype = arguments, c_int
    library.larder_store_close.argtypes, library.larder_store_close.restype = [c_void_p], None
    return library
