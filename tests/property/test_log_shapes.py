"""Laws of reading messages by their shapes."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_agents.wire.log_annotate import Annotator
from eddy_agents.wire.log_columns import ALL, Codes, FieldSet
from eddy_agents.wire.log_patterns import PROGRAMS
from eddy_agents.wire.log_shapes import CONSTANTS, FIELDS, LOWER_CASE, table_of
from eddy_mesh.cer import Value
from eddy_mesh.columns import Text, pack

WORDS = [
    *("Failed password for ", "invalid user ", "Accepted publickey for ", " from ", " port ", " ssh2", " [preauth]"),
    *("root", "u1", "a b", "192.0.2.7", "1.2.3.400", "2001:db8::1", "host7.example", "22", "123456", "0", "99999"),
    *("message repeated ", "1234567890", " times: [ ", "]", "Connection closed by ", "Disconnected from ", "user "),
    *("[12.5] ", "DROP ", "x" * 99, "9" * 99, "IN=eth0 OUT= ", "MAC=00:11 ", "SRC=192.0.2.9 DST=10.0.0.1 LEN=60 "),
    *("TTL=64 ", "TTL=6400 ", "PROTO=TCP", " SPT=80 DPT=443", "\n", "\0", ": "),
    *("session opened for user ", "(uid=0)", " by ", "ann : TTY=pts/0 ; PWD=/srv ; USER=root ; COMMAND=/bin/id 7"),
    *("pam_unix(sshd:auth): ", "check pass; user unknown", "(root) CMD (id 5)", "segfault at 0", "a[77]: "),
    *("Out of memory: Kill process 7 (java)", "eth0: link becomes ready"),
]  # fmt: skip
MESSAGES = st.lists(st.sampled_from(WORDS), max_size=9).map("".join)


def read_alone(program: str, message: bytes) -> dict[str, bytes]:
    """The fields of one message by the expressions themselves."""
    reading = table_of(PROGRAMS[program]).read(message) if len(message) <= 4096 else None
    if reading is None:
        return {}
    found = dict(zip(CONSTANTS, reading.constants, strict=True))
    for field, begin, end in reading.spans:
        text = message[begin:end]
        found[FIELDS[field]] = text.lower() if FIELDS[field] in LOWER_CASE else text
    return {name: text for name, text in found.items() if text}


def fields_of(program: str, found: dict[str, bytes]) -> dict[str, Value]:
    """The same as a row."""
    fields = FieldSet(1)
    for name, text in found.items():
        fields.put(name, np.array([0]), [text])
    return fields.rows()[0]


@settings(max_examples=150)
@given(st.sampled_from(sorted(PROGRAMS)), st.lists(MESSAGES, min_size=1, max_size=6))
def test_a_shape_reads_like_the_expression(program: str, messages: list[str]) -> None:
    """Read by shape, each message of a chunk has the fields that the expressions find in it alone."""
    encoded = [message.encode() for message in messages]
    fields, programs = FieldSet(len(encoded)), Codes(len(encoded))
    programs.put(ALL, [program.encode()] * len(encoded))
    Annotator().annotate(fields, programs, Text(*pack(encoded)))
    rows = fields.rows()
    for row in rows:
        if "source.ip" in row:
            row["source.address"] = row.pop("source.ip")
    assert rows == [fields_of(program, read_alone(program, message)) for message in encoded]


_CLASS = r"\[(?:[^\]\\]|\\.)*\]"
_ANY_DIGITS = re.compile(
    rf"\(\?P<\w+>(?:\\d|{_CLASS})\{{\d,\d+\}}|(?<=\))\[\^=\]\{{0,100\}}|\\d[+*]|\\[^d]|{_CLASS}|\(\?P<\w+>"
)
"""What may be in a pattern: a group that counts what it holds, runs of digits of any length, classes, group names."""


def test_no_pattern_tells_digits_apart() -> None:
    """A pattern names no digit, and counts only what a group holds: else a shape would not say how it is read."""
    for pattern in {pattern for patterns in PROGRAMS.values() for pattern in patterns}:
        left = _ANY_DIGITS.sub("", pattern.text)
        assert not re.search(r"[0-9{]|\\d", left), pattern.text
