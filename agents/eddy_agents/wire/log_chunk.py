"""The lines of one batch while they are cooked.

What may live here: `Chunk`, and the names of what is supplied where a line does not say it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from functools import cached_property

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.log_columns import FieldSet
from eddy_agents.wire.log_spans import Data, Offsets, packed, padded, spliced
from eddy_agents.wire.syslog_time import UNREADABLE
from eddy_mesh.columns import Text, pack


class Repair(IntFlag):
    """What a line did not say and was supplied: the names in ``syslog.repair``."""

    YEAR = 1
    TIMEZONE = 2
    HOST = 4
    TIMESTAMP = 8
    CHARSET = 16


class Chunk:
    """What is known so far about the lines of a chunk.

    Attributes:
        text: UTF-8 text of all lines end to end.
        begins: offset in ``text`` of the first byte of each line.
        ends: offset after the last byte of each line, without its end.
        observed: when each was taken in, ns since 1970 UTC.
        fields: coded fields.
        occurred: ns since 1970 UTC, or `UNREADABLE`.
        repairs: `Repair` flags of each line.
    """

    def __init__(self, text: bytes, begins: Offsets, ends: Offsets, observed: npt.NDArray[np.int64]) -> None:
        self.text = text
        self.begins = begins
        self.ends = ends
        self.observed = observed
        self.fields = FieldSet(len(begins))
        self.occurred = np.full(len(begins), UNREADABLE, np.int64)
        self.repairs = np.zeros(len(begins), np.uint8)
        self._message_begins = begins.copy()
        self._messages: dict[int, bytes] = {}

    @cached_property
    def data(self) -> Data:
        """All lines as `eddy_agents.wire.log_spans` takes them."""
        return padded(self.text)

    @property
    def count(self) -> int:
        """Number of lines."""
        return len(self.begins)

    def line(self, row: int) -> bytes:
        """Return one line."""
        return self.text[int(self.begins[row]) : int(self.ends[row])]

    def lines(self, rows: npt.NDArray[np.intp]) -> list[bytes]:
        """Return some lines."""
        text, begins, ends = self.text, self.begins[rows].tolist(), self.ends[rows].tolist()
        return [text[begin:end] for begin, end in zip(begins, ends, strict=True)]

    def repair(self, rows: npt.NDArray[np.intp], what: Repair) -> None:
        """State that something was supplied in some rows."""
        self.repairs[rows] |= np.uint8(what)

    def put_messages_from(self, rows: npt.NDArray[np.intp], begins: Offsets) -> None:
        """Set the messages of some rows, which end with their lines, by the offset of their first byte in ``text``."""
        self._message_begins[rows] = begins

    def put_messages(self, rows: npt.NDArray[np.intp], messages: Sequence[bytes | None]) -> None:
        """Set the messages of some rows; None for the whole line."""
        self._messages.update(
            (row, held) for row, held in zip(rows.tolist(), messages, strict=True) if held is not None
        )

    def messages(self) -> Text:
        """Return the message of each line."""
        if len(self._messages) == self.count:
            return Text(*pack([self._messages[row] for row in range(self.count)]))
        offsets, data = packed(self.data, self._message_begins, self.ends)
        return Text(*spliced(offsets, data.tobytes(), self._messages))
