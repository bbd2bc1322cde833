"""Few different texts of a column are written by their number: every piece has its own numbers, the file has texts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Column, Constant, Text, Words, pack
from eddy_mesh.rows import flat_rows
from eddy_mesh.selection.parse import compile_statement
from eddy_mesh.store.archive_store import ArchiveStore, StoreConfig
from eddy_mesh.store.tables import MAX_ENUM, MAX_ENUM_LETTERS, Table, coded, is_enum

NAME = "network.transport"
PLAIN = ("", "it's", '"', "\\", "\\x41", "a", "A", "a ", "é", "e\u0301", "😀", "\U00020000", "NULL", "$1", "' || '")
ODD = ("\n", "\0", "\x7f", "\u2028", "\ufeff", "\U0010fffd")
"""No plain literals."""


def _words(texts: Sequence[str | None], *, width: type[np.unsignedinteger] = np.uint8) -> Words:
    """The texts with the numbers in which they come; a null has the number of the last one."""
    values = tuple(dict.fromkeys(text for text in texts if text is not None))
    codes = np.array([len(values) - 1 if text is None else values.index(text) for text in texts], width)
    nulls = np.array([text is None for text in texts])
    return Words(codes, values, nulls if nulls.any() else None)


def _numbered(count: int) -> list[str | None]:
    return [f"t{number}" for number in range(count)]


PIECES: dict[str, list[Column]] = {
    "plain literals, turned round": [_words(PLAIN), _words(PLAIN[::-1], width=np.uint32)],
    "plain beside odd": [_words([*PLAIN, None]), _words([*ODD, None, "a"])],
    "255": [_words(_numbered(255)), _words(_numbered(255)[::-1])],
    "256": [_words(_numbered(256)), _words([*_numbered(256)[::-1], None])],
    "257": [_words(_numbered(257), width=np.uint16), _words(_numbered(257)[::-1], width=np.uint16)],
    "256 together": [_words(_numbered(200)), _words([None, *_numbered(256)[100:]])],
    "257 together": [_words(_numbered(200)), _words([None, *_numbered(257)[100:]])],
    "constant in one": [_words(["a", None, "b"]), Constant("it's", 2), Constant("b", 3)],
    "constants that differ": [Constant("a", 2), Constant("", 3), Constant("\n", 1)],
    "one constant": [Constant("it's", 2), Constant("it's", 3)],
    "null in one": [_words(["a", None]), Words(np.array([1, 0], np.uint8), ("a", "b"), np.ones(2, np.bool_))],
    "a text twice in one": [_words(["a", "b"]), Words(np.array([0, 1, 2], np.uint8), ("b", "a", "b"))],
    "text in one": [_words(["a", "b"]), Text(*pack([b"b", b"x"]))],
    "long texts": [_words(["a" * MAX_ENUM_LETTERS, "b"]), _words(["b", None])],
}


@pytest.mark.parametrize("piece_rows", [1, 10_000], ids=["pieces", "one"])
@pytest.mark.parametrize("columns", PIECES.values(), ids=PIECES.keys())
def test_texts_of_pieces_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: list[Column], piece_rows: int
) -> None:
    """Pieces in which a text has different numbers, or which hold a column in another way, give back every text."""
    monkeypatch.setattr("eddy_mesh.store.pieces.PIECE_ROWS", piece_rows)
    kind, first, batches = Kind(Stage.COOKED, EventClass.NETWORK, "x"), 0, []
    for column in columns:
        held = {NAME: column, "occurred": Constant(first, len(column))}
        batches.append(Batch(kind, "h", Producer(7, 1_789_999_999), first, 1_790_000_000_000, len(column), held))
        first += len(column)
    with closing(ArchiveStore(tmp_path, StoreConfig(threads=1), 0)) as store:
        store.append(batches)
        assert store.seal(0, force=True) == 1
        rows = list(store.query(compile_statement("SELECT *", now_ns=0)))
    assert rows == [row for batch in batches for row in flat_rows(batch)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("",), True),
        (PLAIN, True),
        (tuple(map(str, range(MAX_ENUM))), True),
        (tuple(map(str, range(MAX_ENUM + 1))), False),
        (("a" * (MAX_ENUM_LETTERS - 1), "b"), True),
        (("a" * MAX_ENUM_LETTERS, "b"), False),
        (("a", "a"), False),
        ((), False),
        *(((odd,), False) for odd in (*ODD, "\ud800")),
    ],
)
def test_only_few_short_plain_texts_are_numbered(values: tuple[str, ...], expected: bool) -> None:
    """The texts stand in the statement: many, long or odd ones would make it large or wrong."""
    assert is_enum(Words(np.zeros(1, np.uint8), values)) is expected


def test_numbers_are_those_of_the_form() -> None:
    """The last of the most texts has number 255; nulls stay, and columns that are no ENUM are left as they are."""
    values = tuple(map(str, range(MAX_ENUM)))
    form = Table(0, {"a": Words(np.zeros(0, np.uint8), values), "b": Text(*pack([]))})
    nulls = np.array([False, True])
    text = Text(*pack([b"x", b"y"]))
    given = coded({"a": Words(np.array([0, 1], np.uint32), ("255", "7"), nulls), "b": text}, form)
    assert given["a"].values.tolist() == [255, 7]  # type: ignore[union-attr]
    assert given["a"].nulls is nulls
    assert given["b"] is text
