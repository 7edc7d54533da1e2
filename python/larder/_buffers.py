"""Memory of Python objects as C sees it."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

_WRITABLE = 1  # PyBUF_WRITABLE; without it PyBUF_SIMPLE: bytes in a row, whatever they mean
_MAPPED = 64 << 10  # from here on memory comes from the system: aligned to pages, as direct I/O likes it


class _View(ctypes.Structure):  # Py_buffer
    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_View), ctypes.c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes, _release_buffer.restype = [ctypes.POINTER(_View)], None


class Borrowed:
    """The bytes of an object with the buffer protocol. While this lives they stay where they are.

    TypeError, BufferError or ValueError, from the object: no buffer, not contiguous, or not writable.
    """

    def __init__(self, owner: Any, writable: bool = False) -> None:
        view = _View()
        _get_buffer(owner, ctypes.byref(view), _WRITABLE if writable else 0)
        self._view = view

    @property
    def address(self) -> int | None:
        return self._view.buf

    @property
    def nbytes(self) -> int:
        return self._view.len

    def __del__(self) -> None:
        view = self.__dict__.pop("_view", None)
        if view is not None:
            _release_buffer(ctypes.byref(view))


def allocate(nbytes: int) -> memoryview:
    """Writable memory of this size."""
    return memoryview(mmap.mmap(-1, nbytes) if nbytes >= _MAPPED else bytearray(nbytes))
