"""Numpy arrays in a pickle, read without calling anything that the pickle asks for."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

MAKERS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
BUFFERS = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")  # protocol 5
DTYPE, NDARRAY = "numpy.dtype", "numpy.ndarray"
NAMED = frozenset((*MAKERS, *BUFFERS, DTYPE, NDARRAY))
PROTOCOLS = (3, 4, 5)  # torch writes 2 unless told, and reads that alone safely
# An array has about 60 operations. So few nest nothing so deep that Python's own stack overflows.
MOST_OPERATIONS = 10_000
# What these protocols write of arrays and dicts; the memo's places are counted, never chosen.
OPERATIONS = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "NONE", "NEWTRUE", "NEWFALSE"),
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("EMPTY_DICT", "SETITEM", "SETITEMS"),
        *("MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    )
)
_MALFORMED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
)


class Refused(Exception):
    """A pickle that is malformed, or holds something else than arrays."""


def protocol_of(body: bytes) -> int:
    """The protocol that a pickle says it has; 0 where it says nothing, as those before 2."""
    return body[1] if len(body) > 1 and body[0] == pickle.PROTO[0] else 0


def load(body: bytes) -> Any:
    """What a pickle of protocol 3, 4 or 5 holds: a numpy array of numbers, or a dict of such.

    Nothing that it names is looked up: each call is noted, and the notes of an array are read.

    Raises:
        Refused: it names anything but what rebuilds an array, or is malformed.
    """
    try:
        _refuse_odd_operations(body)
        value = _Reader(io.BytesIO(body)).load()
        if isinstance(value, dict):
            return {key: _array(item) for key, item in value.items()}
        if isinstance(value, _Call):
            return _array(value)
    except _MALFORMED as error:
        raise Refused(str(error)) from None
    raise Refused(f"it holds a {type(value).__name__}")


def _refuse_odd_operations(body: bytes) -> None:
    """Raise where a pickle does what no array needs, before any of it is done."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(body)):
        if count >= MOST_OPERATIONS or operation.name not in OPERATIONS:
            raise Refused(f"operation {count} is {operation.name}")
        # Unpicklers make room for all places up to this one.
        if operation.name == "LONG_BINPUT" and (argument or 0) > MOST_OPERATIONS:
            raise Refused(f"operation {count} has place {argument}")


class _Call:
    """Something that a pickle asks to be called: noted, never called."""

    name = ""
    given: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *given: Any) -> None:
        self.given = given

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    """An unpickler in which every name stands for a note."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in NAMED:
            raise Refused(f"it names {full}")
        return type("_Call", (_Call,), {"name": full})


def _array(item: Any) -> Any:
    """The array of a note; other values as they are."""
    if not isinstance(item, _Call):
        return item
    if item.name in MAKERS:
        _, shape, dtype, by_column, data = item.state
        return _rebuilt(data, dtype, shape, "F" if by_column else "C")
    if item.name in BUFFERS:
        data, dtype, shape, order = item.given[:4]
        return _rebuilt(data, dtype, shape, order)
    raise Refused(f"it holds a {item.name}")


def _rebuilt(data: Any, dtype: Any, shape: Sequence[int], order: Any) -> np.ndarray:
    if not isinstance(dtype, _Call) or dtype.name != DTYPE or order not in ("C", "F"):
        raise Refused("an array has no type or order")
    code, little_or_big = dtype.given[0], dtype.state[1]
    # Never objects: their bytes would be taken for addresses.
    if not re.fullmatch("[fiu][1248]|b1", code) or little_or_big not in ("<", ">", "|", "="):
        raise Refused(f"an array is of {code!r}")
    if not isinstance(data, (bytes, bytearray)):
        raise Refused("an array has no bytes")
    # One that asks for more bytes than there are is refused by numpy.
    found: np.ndarray = np.ndarray(
        shape, np.dtype(code).newbyteorder(little_or_big), data, order=order
    )
    if found.nbytes != len(data):
        raise Refused(f"an array of {found.nbytes} bytes has {len(data)}")
    return found
