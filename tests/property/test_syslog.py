"""Laws of the text cookings: any bytes give one event each, and chunks agree with single lines."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_agents.transformers import file, journald, json, syslog
from eddy_agents.wire.log_formats import BSD, RFC5424, LineFormat
from eddy_agents.wire.log_lines import ANY_LINE, HEADED_LINE, LineCooking
from eddy_agents.wire.syslog import Syslog, parse_any, parse_rfc3164, parse_rfc5424
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.codec import decode, encode
from eddy_mesh.columns import Bytes, Column, Constant, Numbers, pack
from eddy_mesh.errors import WireError
from eddy_mesh.rows import flat_row

NOW = 1_793_697_300_000_000_000
PIECES = [
    *(b"<13>", b"<191>1 ", b"<999>", b"1 ", b"- ", b"Nov  3 09:14:07 ", b"Feb 30 09:14:07 ", b"2026-11-03T09:14:07"),
    *(b".25", b"Z ", b"+01:00 ", b"host ", b"sshd[77]: ", b"sudo: ", b"kernel: ", b'[a b="c"]', b"[a", b"\\", b'"'),
    *(b"Failed password for ", b" from ", b"192.0.2.7", b" port 22", b" ssh2", b"ann : TTY=", b" ; PWD=", b" ; USER="),
    *(
        b"COMMAND=",
        b"IN=eth0 ",
        b" SRC=",
        b"%SYS-5-X: ",
        b"*",
        b"12: ",
        b"\n",
        b"\0",
        b"\r\n",
        b"\xff",
        b"\xef\xbb\xbf",
    ),
    *(b'1.2.3.4 - - [03/Nov/2026:09:14:07 +0000] "GET / HTTP/1.1" 200 5', b"pam_unix(sshd:auth): ", b"caf\xc3\xa9"),
]
LINES = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=6)), max_size=12).map(b"".join)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def cook(module: object, lines: list[bytes]) -> list[dict[str, Value]]:
    """The cooked rows of a batch of payloads, after a round trip through the codec."""
    columns: dict[str, Column] = {
        "event.original": Bytes(*pack(lines)),
        "observed": Numbers(np.full(len(lines), NOW)),
        "host_address": Constant("198.51.100.9", len(lines)),
    }
    raw = Batch(Kind(Stage.RAW, EventClass.SYSTEM, "x"), "o", Producer(1, 2), 0, 1, len(lines), columns)
    (draft,) = module.Cooking(module.Config()).on_batch(raw, NOW).outputs  # type: ignore[attr-defined]
    assert {len(column) for column in draft.columns.values()} == {len(lines)}
    cooked = Batch(draft.kind, "o", Producer(3, 2), 0, 1, draft.count, draft.columns)
    again = decode(encode(cooked), draft.kind, "o")
    return [{n: v for n, v in flat_row(again, row).items() if n not in {"id", "parents"}} for row in range(again.count)]


@given(LINES)
def test_parsers_give_a_value_or_a_wire_error(line: bytes) -> None:
    """Any bytes are parsed or refused with WireError; read leniently they are never refused."""
    for parse in (parse_rfc5424, parse_rfc3164):
        with suppress(WireError):
            assert isinstance(parse(line), Syslog)
    assert isinstance(parse_any(line), Syslog)


@settings(max_examples=100)
@given(st.lists(LINES, min_size=1, max_size=8))
def test_a_chunk_cooks_like_its_lines(lines: list[bytes]) -> None:
    """Cooked together, lines give what each gives alone, in order, whatever bytes they hold."""
    for module in (syslog, file):
        assert cook(module, lines) == [cook(module, [line])[0] for line in lines]


HEADERS = st.tuples(
    st.sampled_from(["", "<38>", "<7>", "<191>", "<192>", "<0999>", "<>", "<a>"]),
    st.sampled_from(["Nov", "nov", "N@v", "Xyz", "Feb"]),
    st.sampled_from([" 21", "  3", " 3", " 30", "  0"]),
    st.sampled_from([" 10:00:00", " 10:00:59", " 10:00:60", " 24:00:00", " 9:00:00"]),
    st.sampled_from([" gate", " g:h", " gate:", " g[1]", "  gate", "", " 2001:db8::1"]),
    st.sampled_from([" sshd", " a.b/c", " ", " a b", " %X-1", " CRON", ""]),
    st.sampled_from(["", "[1]", "[12345678]", "[123456789]", "[]", "[x]", "[1]]", "[[1]"]),
    st.sampled_from([": text", ":", ": ", ":text", "", " : text", ": a: b [1]"]),
).map("".join)


@given(st.lists(HEADERS, min_size=1, max_size=8))
def test_headers_found_at_once_are_those_of_the_expression(lines: list[str]) -> None:
    """A header that is found without the expression gives what the expression gives."""
    columns: dict[str, Column] = {"event.original": Bytes(*pack([line.encode() for line in lines]))}
    kind = Kind(Stage.RAW, EventClass.SYSTEM, "x")
    raw = Batch(kind, "o", Producer(1, 2), 0, 1, len(lines), columns)
    given = []
    for form in (BSD._replace(quick_from=1), BSD._replace(quick=None)):
        cooking = LineCooking(UTC, (form,), syslog=ANY_LINE, host_from=())
        draft = cooking.cook(raw, kind, NOW)
        cooked = Batch(kind, "o", Producer(3, 2), 0, 1, draft.count, draft.columns)
        given.append([flat_row(cooked, row) for row in range(cooked.count)])
    assert given[0] == given[1]


ALIKE = st.lists(st.one_of(HEADERS.map(str.encode), LINES), min_size=1, max_size=3).flatmap(
    lambda different: st.lists(st.sampled_from(different), min_size=2, max_size=9)
)
"""Lines of which most, or all, say the same."""


@settings(max_examples=150)
@given(ALIKE)
def test_lines_that_are_alike_cook_like_each_alone(lines: list[bytes]) -> None:
    """What all lines of a chunk have, none has, or all but one have, is what each has alone, however it is found."""
    columns: dict[str, Column] = {
        "event.original": Bytes(*pack(lines)),
        "host_address": Constant("198.51.100.9", len(lines)),
    }
    kind = Kind(Stage.RAW, EventClass.SYSTEM, "x")
    raw = Batch(kind, "o", Producer(1, 2), 0, 1, len(lines), columns)
    alone = [_cooked(raw.slice(row, row + 1), BSD._replace(quick=None))[0] for row in range(len(lines))]
    for form in (BSD._replace(quick_from=1), BSD._replace(quick=None)):
        assert _cooked(raw, form) == alone


def _cooked(raw: Batch, form: LineFormat) -> list[dict[str, Value]]:
    """The rows of a cooking that tries two forms on whole chunks, without what differs from chunk to chunk."""
    cooking = LineCooking(UTC, (form, RFC5424), syslog=HEADED_LINE, host_from=("host_address",))
    draft = cooking.cook(raw, raw.kind, NOW)
    cooked = Batch(draft.kind, "o", Producer(3, 2), 0, 1, draft.count, draft.columns)
    rows = [flat_row(cooked, row) for row in range(cooked.count)]
    return [{name: value for name, value in row.items() if name not in {"id", "parents"}} for row in rows]


@settings(max_examples=100)
@given(st.lists(LINES, min_size=1, max_size=4))
def test_no_text_is_lost(lines: list[bytes]) -> None:
    """Every letter of a line without header is in its message."""
    for line, row in zip(lines, cook(file, lines), strict=True):
        text = line.rstrip(b"\r\n\0")
        if not text[:1].isascii() or text[:1] in {b"*", b"\\", b'"'}:
            assert str(row["message"]).encode() in {text, text.decode("latin-1").encode()}


@settings(max_examples=100)
@given(st.lists(JSON_VALUES.map(msgspec.json.encode) | st.binary(max_size=20), min_size=1, max_size=5))
def test_json_and_journal_keep_every_payload(payloads: list[bytes]) -> None:
    """Any JSON value and any bytes give one event each."""
    for module in (json, journald):
        assert len(cook(module, payloads)) == len(payloads)


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from(["source.ip", "level", "time", "process.pid", "message", "event.start"]), SCALARS)
)
def test_json_members_never_vanish(members: dict[str, object]) -> None:
    """A member that is not null is in the event, below its own name or json."""
    (row,) = cook(json, [msgspec.json.encode(members)])
    kept = sum(1 for name in row if name.startswith("json.")) + sum(name in row for name in ("occurred", *members))
    assert kept >= sum(value is not None for value in members.values())
