"""Columns as an Arrow stream, over the Arrow C data interface: DuckDB reads them without Python objects.

What may live here: the C structs, and how each kind of column is laid out in them. Nothing is copied but the bits of
nulls and booleans; texts must be UTF-8.

Source: Apache Arrow, "The Arrow C data interface", "The Arrow C stream interface", "The Arrow PyCapsule Interface".
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from eddy_mesh.columns import Bytes, Nulls, Numbers, Packed, Text, Words, pack

Stored: TypeAlias = Numbers | Text | Words | Bytes
"""Columns that can be laid out."""
Columns: TypeAlias = Mapping[str, Stored]

_NULLABLE = 2
_FORMATS = {
    "b1": b"b",
    "i1": b"c",
    "u1": b"C",
    "i2": b"s",
    "u2": b"S",
    "i4": b"i",
    "u4": b"I",
    "i8": b"l",
    "u8": b"L",
    "f4": b"f",
    "f8": b"g",
}
"""Kind and size of numbers → their Arrow format."""


class _Schema(ctypes.Structure):
    pass


class _Array(ctypes.Structure):
    pass


class _Stream(ctypes.Structure):
    pass


_SchemaPointer, _ArrayPointer, _StreamPointer = map(ctypes.POINTER, (_Schema, _Array, _Stream))
_ReleaseSchema = ctypes.CFUNCTYPE(None, _SchemaPointer)
_ReleaseArray = ctypes.CFUNCTYPE(None, _ArrayPointer)
_ReleaseStream = ctypes.CFUNCTYPE(None, _StreamPointer)
_GetSchema = ctypes.CFUNCTYPE(ctypes.c_int, _StreamPointer, _SchemaPointer)
_GetNext = ctypes.CFUNCTYPE(ctypes.c_int, _StreamPointer, _ArrayPointer)
_GetError = ctypes.CFUNCTYPE(ctypes.c_void_p, _StreamPointer)

_Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_char_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(_SchemaPointer)),
    ("dictionary", _SchemaPointer),
    ("release", _ReleaseSchema),
    ("private_data", ctypes.c_void_p),
]
_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(_ArrayPointer)),
    ("dictionary", _ArrayPointer),
    ("release", _ReleaseArray),
    ("private_data", ctypes.c_void_p),
]
_Stream._fields_ = [
    ("get_schema", _GetSchema),
    ("get_next", _GetNext),
    ("get_last_error", _GetError),
    ("release", _ReleaseStream),
    ("private_data", ctypes.c_void_p),
]

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_CAPSULE = b"arrow_array_stream"


# What a stream has handed out is Python's: it goes when it is released and nobody holds it any more.
def _forget_schema(schema: ctypes._Pointer[_Schema]) -> None:
    schema.contents.release = _ReleaseSchema()


def _forget_array(array: ctypes._Pointer[_Array]) -> None:
    _handed_out.pop(array.contents.private_data, None)
    array.contents.release = _ReleaseArray()


def _forget_stream(stream: ctypes._Pointer[_Stream]) -> None:
    stream.contents.release = _ReleaseStream()


_forgets = _ReleaseSchema(_forget_schema), _ReleaseArray(_forget_array), _ReleaseStream(_forget_stream)
_handed_out: dict[int, list[object]] = {}
"""Number of an array that is being read → what it needs."""
_numbers = count(1)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()


class ArrowStream:
    """Tables of the same columns, to be registered with DuckDB; this must live until it was read.

    Attributes:
        error: why making a table failed while DuckDB read; it then fails too.

    Args:
        first: columns of a table by name: names and kinds are those of all. Null numbers and texts are not looked at.
        tables: number of rows and columns of each, made when it is read.
    """

    def __init__(self, first: Columns, tables: Callable[[], Iterator[tuple[int, Columns]]]) -> None:
        self.error: Exception | None = None
        self._tables = tables
        self._held: list[object] = []
        laid = [_laid(self._held, name, column)[0] for name, column in first.items()]
        self._schema = _schema_of(self._held, b"+s", b"", children=laid)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return a new stream as a capsule; the schema is always that of the columns."""
        unread = self._tables()

        def put_schema(_: object, out: ctypes._Pointer[_Schema]) -> int:
            ctypes.memmove(out, ctypes.byref(self._schema), ctypes.sizeof(_Schema))
            return 0

        def put_array(_: object, out: ctypes._Pointer[_Array]) -> int:
            ctypes.memset(out, 0, ctypes.sizeof(_Array))  # the end
            try:
                table = next(unread, None)
                if table is not None:
                    ctypes.memmove(out, ctypes.byref(_array_of_table(*table)), ctypes.sizeof(_Array))
            except Exception as error:  # noqa: BLE001  # nothing may be raised into C
                self.error = error
                return errno.EIO
            return 0

        calls = _GetSchema(put_schema), _GetNext(put_array), _GetError(lambda _: None)
        stream = _Stream(*calls, _forgets[2])
        self._held += [stream, calls]
        return _new_capsule(ctypes.addressof(stream), _CAPSULE, None)


def _array_of_table(rows: int, columns: Columns) -> _Array:
    """A table as an array, with what it needs in `_handed_out` until it is released."""
    held: list[object] = [columns]
    array = _array_of(held, rows, [None], children=[_laid(held, name, column)[1] for name, column in columns.items()])
    array.private_data = number = next(_numbers)
    _handed_out[number] = held
    return array


# --- layout --------------------------------------------------------------------------------------------------------


def _laid(held: list[object], name: str, column: Stored) -> tuple[_Schema, _Array]:
    label = name.encode()
    if isinstance(column, Words):
        texts = Text(*pack([_utf8(value) for value in column.values]))
        dictionary = _laid(held, "", texts)
        codes = column.codes
        return (
            _schema_of(held, _FORMATS[codes.dtype.str[1:]], label, dictionary=dictionary[0]),
            _array_of(held, len(codes), [_bits(column.nulls), codes], column.nulls, dictionary=dictionary[1]),
        )
    if isinstance(column, Packed):
        offsets, data = column.offsets.astype(np.int64), np.frombuffer(column.data, np.uint8)
        return (
            _schema_of(held, b"U" if isinstance(column, Text) else b"Z", label),
            _array_of(held, len(column), [_bits(column.nulls), offsets, data], column.nulls),
        )
    values = column.values.astype(column.values.dtype.newbyteorder("="), copy=False)
    laid = np.packbits(values, bitorder="little") if values.dtype.kind == "b" else values
    return (
        _schema_of(held, _FORMATS[values.dtype.str[1:]], label),
        _array_of(held, len(values), [_bits(column.nulls), laid], column.nulls),
    )


def _bits(nulls: Nulls) -> npt.NDArray[np.uint8] | None:
    return None if nulls is None else np.packbits(~nulls, bitorder="little")


def _schema_of(
    held: list[object],
    form: bytes,
    name: bytes,
    *,
    children: list[_Schema] | None = None,
    dictionary: _Schema | None = None,
) -> _Schema:
    schema = _Schema(form, name, None, _NULLABLE, len(children or ()))
    if children is not None:
        schema.children = (_SchemaPointer * len(children))(*map(ctypes.pointer, children))  # type: ignore[misc]  # ctypes' own type
    if dictionary is not None:
        schema.dictionary = ctypes.pointer(dictionary)
    schema.release = _forgets[0]
    held += [schema, form, name]
    return schema


def _array_of(
    held: list[object],
    count: int,
    buffers: list[npt.NDArray[np.generic] | None],
    nulls: Nulls = None,
    *,
    children: list[_Array] | None = None,
    dictionary: _Array | None = None,
) -> _Array:
    laid = [None if buffer is None else np.ascontiguousarray(buffer) for buffer in buffers]
    array = _Array(count, 0 if nulls is None else int(np.count_nonzero(nulls)), 0, len(laid), len(children or ()))
    array.buffers = (ctypes.c_void_p * len(laid))(*(None if part is None else part.ctypes.data for part in laid))
    if children is not None:
        array.children = (_ArrayPointer * len(children))(*map(ctypes.pointer, children))  # type: ignore[misc]  # ctypes' own type
    if dictionary is not None:
        array.dictionary = ctypes.pointer(dictionary)
    array.release = _forgets[1]
    held += [array, laid]
    return array
