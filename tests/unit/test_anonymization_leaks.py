"""What the default policy lets through: a secret planted in every field there is, in every form of column."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

import msgspec
import numpy as np
import pytest

from eddy_agents.anonymization.apply import NO_ORIGIN, TAG, Anonymizer
from eddy_agents.anonymization.keys import Epoch, KeyRing
from eddy_agents.anonymization.policy import Config
from eddy_agents.transformers import syslog
from eddy_mesh import codec
from eddy_mesh.agent import Draft
from eddy_mesh.batch import EXTRA, Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columnize import any_column
from eddy_mesh.columns import Addresses, Bytes, Column, Constant, Ids, Maps, Numbers, Text, Words, pack
from eddy_mesh.fields import registry
from eddy_mesh.rows import batch_of, flat_rows

KIND = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")
KEYS = KeyRing([Epoch(1, -(2**63), b"1" * 32)])

OPEN = ("json.x", "labels.x", "journald.X", "sflow.x", "tags.x", "syslog.structured_data.x", "netflow.element_9", TAG)
FIELDS = (*registry(), *OPEN, "origin", "nobody.knows.it", EXTRA)

NAME = "q7person"
NUMBER = 0xCB00714D
"""203.0.113.77."""

WORDS_LET_THROUGH = frozenset(
    {
        # What happened: closed vocabularies of ECS, or words of our own cookings and detectors.
        *("event.action", "event.category", "event.code", "event.kind", "event.outcome", "event.type", "diagnosis.id"),
        # How: names of protocols, flags, VLAN numbers, states.
        *("network.direction", "network.protocol", "network.transport", "network.type", "network.vlan.id"),
        *("netflow.tcp_flags", "socket.state"),
        # Which program: without it a line of syslog says nothing.
        *("process.name", "log.syslog.appname", "service.name", "service.type", "service.state"),
        *("log.syslog.facility.name", "log.syslog.severity.name"),
        # What was measured.
        *("sensor.quantity", "sensor.unit"),
    }
)
"""Fields whose texts pass but for the addresses in them and the names in the event's other fields."""

Form = Callable[[str], Column]
LATER = np.array([True, False])

FORMS: dict[str, Form] = {
    "constant": lambda secret: Constant(secret, 2),
    "constant of bytes": lambda secret: Constant(secret.encode(), 2),
    "constant list": lambda secret: Constant([secret, [secret]], 2),
    "constant map": lambda secret: Constant({secret: {"a": secret}}, 2),
    "words": lambda secret: Words(np.array([0, 1], np.uint8), (secret, f"x {secret}")),
    "word that no row has": lambda secret: Words(np.zeros(2, np.uint8), ("x", secret)),
    "text": lambda secret: Text(*pack([secret.encode(), f"a {secret.upper()}, b".encode()])),
    "text of a null": lambda secret: Text(*pack([secret.encode(), b"x"]), LATER),
    "bytes": lambda secret: Bytes(*pack([secret.encode(), b"\xff " + secret.encode()])),
    "any": lambda secret: any_column([secret, f"({secret})"]),
    "any list": lambda secret: any_column([[secret], [1, [secret.encode()]]]),
    "any map": lambda secret: any_column([{secret: 1}, {"a": {"b": [secret]}}]),
}
NUMBER_FORMS: dict[str, Column] = {
    "addresses": Addresses(np.array([NUMBER] * 2, ">u4")),
    "addresses in 16 bytes": Addresses(np.array([NUMBER] * 2, ">u4")).wide(),
    "address of a null": Addresses(np.array([NUMBER, 1], ">u4"), LATER),
    "ids": Ids(NUMBER, np.array([NUMBER, 1], np.uint64)),
    "numbers": Numbers(np.array([NUMBER, 1], np.uint32)),
    "any number": any_column([NUMBER, [NUMBER]]),
}


def _anonymized(columns: dict[str, Column], **settings: object) -> Batch:
    batch = Batch(KIND, NAME, Producer(1, 1), 0, 1, 2, columns)
    (out,) = Anonymizer(msgspec.convert(settings, Config), KEYS).on_batch(batch, 5).outputs
    assert isinstance(out, Batch)
    return out


def _planted(column: Column) -> dict[str, Column]:
    """Return every field with that column, and, in the column of maps, every field again."""
    rows: list[Value] = [dict.fromkeys(FIELDS, column.at(row)) for row in range(2)]
    return dict.fromkeys(FIELDS, column) | {EXTRA: any_column(rows)}


def _fields_with(secret: bytes, out: Batch) -> set[str]:
    """Return the fields of a batch whose bytes, or the bytes of whose member, hold the secret in capitals or not."""
    found = set()
    for name, column in out.columns.items():
        members = {name: column}
        if name == EXTRA:
            rows = [column.at(row) or {} for row in range(2)]
            names = {str(key) for row in rows if isinstance(row, dict) for key in row}
            members = {
                key: any_column([cast("Value", row.get(key)) for row in rows if isinstance(row, dict)]) for key in names
            }
        for member, held in members.items():
            batch = Batch(KIND, "", Producer(1, 1), 0, 1, 2, {member: held})
            if secret.lower() in codec.encode(batch).lower():
                found.add(member)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_a_name_of_the_event_is_nowhere(form: str) -> None:
    """A name that the event's own fields, or its origin, give away is in no byte of the result, nor in the origin."""
    out = _anonymized(_planted(FORMS[form](NAME)))
    assert NAME.encode() not in codec.encode(out).lower()
    assert NAME not in out.origin


def test_a_name_that_nothing_gives_away_passes_only_as_a_word() -> None:
    """The fields that let an unknown text through are the few whose texts say what happened, in any form."""
    found: set[str] = set()
    for form in FORMS.values():
        columns = _planted(form("unknownperson"))
        found |= _fields_with(b"unknownperson", _anonymized(columns, names_in_text=[]))
    assert found == WORDS_LET_THROUGH


SPELLINGS = (
    *("203.0.113.77", "203-0-113-77", "0xcb00714d", "::ffff:203.0.113.77", "2001:db8::cb00:714d"),
    *("fe80::9cb0:71ff:fe4d:1%eth0", "9e:b0:71:4d:00:01", "9eb0.714d.0001", "q7@mail.example.org"),
)


@pytest.mark.parametrize("form", FORMS)
def test_an_address_is_nowhere(form: str) -> None:
    """An address in a text is found in every field that lets text through, with no help of the other fields."""
    out = _anonymized(_planted(FORMS[form](" ".join(SPELLINGS))), names_in_text=[])
    data = codec.encode(out).lower()
    assert [spelling for spelling in SPELLINGS if spelling.partition("%")[0].encode() in data] == []


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_address_that_is_the_whole_value_is_nowhere(spelling: str) -> None:
    """An address alone in a field is found as one in a sentence is."""
    out = _anonymized(_planted(Constant(spelling, 2)), names_in_text=[])
    assert spelling.partition("%")[0].encode() not in codec.encode(out).lower()


@pytest.mark.parametrize("form", NUMBER_FORMS)
def test_an_address_as_a_number_stays_only_where_numbers_belong(form: str) -> None:
    """Columns of addresses, ids and numbers are changed or left out wherever the field's type is another."""
    out = _anonymized(_planted(NUMBER_FORMS[form]))
    found = set()
    for secret in (NUMBER.to_bytes(4, "big"), NUMBER.to_bytes(4, "little")):
        found |= _fields_with(secret, out)
    kinds = {str(registry()[name].type) for name in found}
    expected = {
        "ids": {"id", "ids"},
        "numbers": {"int", "float", "time", "level"},
        "any number": {"int", "float", "time", "level"},
    }
    assert kinds <= expected.get(form, set())


@pytest.mark.parametrize(
    ("rule", "expected"), [("keep", "web1"), ("drop", NO_ORIGIN), ({"method": "truncate", "characters": 2}, "we")]
)
def test_the_origin_follows_the_rule_of_host(rule: object, expected: str) -> None:
    """What becomes of ``host`` becomes of the origin, which stands in the subject and in a header."""
    batch = Batch(KIND, "web1", Producer(7, 1), 0, 1, 1, {"host": Constant("web1", 1), "origin": Constant("web1", 1)})
    agent = Anonymizer(msgspec.convert({"fields": {"host": rule}}, Config), KEYS)
    (out,) = agent.on_batch(batch, 5).outputs
    assert isinstance(out, Batch)
    assert out.origin == expected
    assert out.producer == batch.producer
    held = [out.columns[name].at(0) for name in ("host", "origin") if name in out.columns]
    assert held == ([] if rule == "drop" else [expected] * 2)


def test_the_origin_has_the_token_of_host() -> None:
    """Under the default policy events can still be joined on the host that they came from."""
    out = _anonymized({"host": Constant(NAME, 2)})
    assert out.origin == out.columns["host"].at(0)
    assert out.origin.startswith("h:")


@pytest.mark.parametrize(
    "line",
    [
        b"<189>Jan 15 10:22:33 10.1.1.1: %SYS-5-CONFIG_I: configured by jane from 10.1.1.1",
        b'<34>1 2026-11-21T10:00:00Z 10.1.1.1 10.1.1.1 10.1.1.1 10.1.1.1 [x@1 jane="10.1.1.1"] jane from 10.1.1.1',
        b"<38>Nov 21 10:00:00 10.1.1.1 sshd[7]: Failed password for jane from 10.1.1.1 port 22 ssh2",
    ],
)
def test_a_cooked_line_of_syslog(line: bytes) -> None:
    """Wherever the cooking puts the address and the user of a line, neither comes out."""
    raw = Kind(Stage.RAW, EventClass.SYSTEM, "syslog")
    batch = batch_of(
        raw, "web1", Producer(1, 1), 0, 1, [{"event.original": line, "observed": 9, "host_address": "10.1.1.1"}]
    )
    (cooked,) = syslog.Cooking(syslog.Config()).on_batch(batch, 9).outputs
    assert isinstance(cooked, Draft)
    made = Batch(cooked.kind, "web1", Producer(1, 1), 0, 1, cooked.count, cooked.columns)
    (out,) = Anonymizer(Config(), KEYS).on_batch(made, 9).outputs
    assert isinstance(out, Batch)
    shown = codec.encode(out) + str(list(flat_rows(out))).encode()
    assert b"10.1.1.1" not in shown
    assert b"jane" not in shown
    assert b"web1" not in shown


@pytest.mark.parametrize("method", [None, "hash", "truncate", "scrub", "crypto_pan"])
def test_values_that_no_event_has_are_left_out(method: str | None) -> None:
    """Times and extensions of MessagePack, and members without a name, neither raise nor pass."""
    odd: list[object] = [datetime.now(UTC), msgspec.msgpack.Ext(5, b"q7person"), {None: b"q7person", 7: [None]}]
    column = Maps(*pack([msgspec.msgpack.encode(value) for value in odd]))
    extra = Maps(*pack([msgspec.msgpack.encode({"process.name": value, 7: "q7person"}) for value in odd]))
    settings = {"fields": {"process.name": method}} if method else {}
    batch = Batch(KIND, "h", Producer(1, 1), 0, 1, 3, {"process.name": column, "event.start": column, EXTRA: extra})
    (out,) = (
        Anonymizer(msgspec.convert(settings | {"names_in_text": ["process.name"]}, Config), KEYS)
        .on_batch(batch, 5)
        .outputs
    )
    assert isinstance(out, Batch)
    assert out.columns["process.name"].at(0) is None
    if method != "truncate":
        assert NAME.encode() not in codec.encode(out)
