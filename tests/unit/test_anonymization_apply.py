"""The anonymizer over batches: every kind of column, every method, keys by time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import pytest

from eddy_agents.anonymization.apply import TAG, Anonymizer
from eddy_agents.anonymization.keys import Epoch, KeyRing
from eddy_agents.anonymization.policy import Config
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columnize import any_column
from eddy_mesh.columns import Addresses, Bytes, Column, Constant, Numbers, Text, Words, pack
from eddy_mesh.errors import ConfigError, SecurityError
from eddy_mesh.rows import batch_of, flat_rows

KIND = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")
KEYS = KeyRing([Epoch(1, 1000, b"1" * 32), Epoch(2, 2000, b"2" * 32)])
NOW_NS = 1500


def _agent(keys: KeyRing = KEYS, **settings: object) -> Anonymizer:
    return Anonymizer(msgspec.convert(settings, Config), keys)


def _rows(agent: Anonymizer, rows: Sequence[Mapping[str, Value]]) -> list[dict[str, Value]]:
    batch = batch_of(KIND, "host", Producer(1, 1), 5, 1, rows)
    return [row for out in agent.on_batch(batch, NOW_NS).outputs if isinstance(out, Batch) for row in flat_rows(out)]


def _column(agent: Anonymizer, name: str, column: Column) -> list[Value]:
    batch = Batch(KIND, "host", Producer(1, 1), 0, 1, len(column), {name: column})
    out = agent.on_batch(batch, NOW_NS).outputs[0]
    return [out.columns[name].at(row) if name in out.columns else None for row in range(len(column))]


def test_default_policy_is_default_deny() -> None:
    """What no rule names is gone, measurements stay, addresses and names are changed, ids and parents stay."""
    parent = b"p" * 16
    (row,) = _rows(
        _agent(),
        [
            {
                "id": b"i" * 16,
                "occurred": 1600,
                "parents": [parent],
                "source.ip": "192.0.2.1",
                "user.name": "jane",
                "message": "jane from 192.0.2.1",
                "event.original": b"jane from 192.0.2.1",
                "json.secret": "jane",
                "netflow.userName": "jane",
                "netflow.postNATSourceIPv4Address": "192.0.2.1",
                "network.bytes": 40,
            }
        ],
    )
    assert row["id"] == b"i" * 16
    assert row["parents"] == [parent]
    assert row["network.bytes"] == 40
    assert row[TAG] == "default/1"
    assert not {"message", "event.original", "json.secret", "netflow.userName"} & row.keys()
    assert "192.0.2.1" not in str(row)
    assert "jane" not in str(row)
    assert str(row["user.name"]).startswith("h:")


def test_an_address_has_one_result_in_every_kind_of_column() -> None:
    """Constant, 4 and 16 bytes, text and dictionary, map and nested value: the same address, the same result."""
    agent = _agent(fields={"source.address": "crypto_pan", "json.x": "crypto_pan"})
    number = np.array([0xC0000201] * 2, ">u4")
    results = [
        *_column(agent, "source.ip", Addresses(number)),
        *_column(agent, "source.ip", Addresses(number).wide()),
        *_column(agent, "source.ip", Constant("192.0.2.1", 1)),
        *_column(agent, "source.ip", any_column(["192.0.2.1"])),
        *_column(agent, "source.address", Words(np.zeros(1, np.uint8), ("192.0.2.1",))),
        *_column(agent, "source.address", Text(*pack([b"192.0.2.1"]))),
    ]
    (nested,) = _column(agent, "json.x", any_column([{"a": ["192.0.2.1"]}]))
    assert len(set(map(str, results))) == 1
    assert nested == {"a": [results[0]]}
    assert results[0] != "192.0.2.1"


def test_members_of_extra_have_their_own_rules() -> None:
    """A field that few rows have is treated like one that all have."""
    rows: list[dict[str, Value]] = [{"network.bytes": n} for n in range(200)]
    rows[3] |= {"source.ip": "192.0.2.1", "user.name": "jane", "json.a": "jane", "process.pid": 7}
    made = _rows(_agent(), rows)[3]
    assert made["process.pid"] == 7
    assert made["source.ip"] not in {None, "192.0.2.1"}
    assert "jane" not in str(made)


def test_the_dictionary_leaks_nothing() -> None:
    """Values of a dictionary that no row uses any more are changed with the rest."""
    column = Words(np.array([1, 1], np.uint8), ("secret", "jane"))
    batch = Batch(KIND, "host", Producer(1, 1), 0, 1, 2, {"user.name": column})
    out = _agent().on_batch(batch, NOW_NS).outputs[0].columns["user.name"]
    assert isinstance(out, Words)
    assert not {"secret", "jane"} & set(out.values)


@pytest.mark.parametrize(
    ("name", "rule", "value", "expected"),
    [
        ("source.ip", {"method": "truncate"}, "192.0.2.77", "192.0.2.0"),
        ("source.ip", {"method": "truncate", "ipv4_bits": 0}, "192.0.2.77", "0.0.0.0"),
        ("source.ip", {"method": "truncate"}, "2001:db8:1:2::7", "2001:db8:1::"),
        ("source.ip", {"method": "truncate", "ipv6_bits": 127}, "2001:db8::7", "2001:db8::6"),
        ("user.name", {"method": "truncate", "characters": 2}, "jane", "ja"),
        ("event.start", {"method": "truncate", "unit": "1m"}, 61 * 10**9, 60 * 10**9),
        ("source.port", {"method": "truncate", "step": 1024}, 1500, 1024),
        ("source.port", {"method": "truncate", "step": 10**6}, 1500, 0),
        ("event.start", {"method": "truncate"}, -(2**63), -(2**63) + 2**63 % (3600 * 10**9)),
        ("json.x", {"method": "truncate"}, -(2**63), -(2**63) + 808),
        ("sensor.value", {"method": "truncate", "step": 10}, 25.5, 20.0),
        ("event.original", {"method": "truncate", "characters": 3}, b"abcdef", b"abc"),
        ("source.ip", "keep", "192.0.2.77", "192.0.2.77"),
        ("source.ip", "drop", "192.0.2.77", None),
    ],
)
def test_rules(name: str, rule: object, value: Value, expected: Value) -> None:
    """A rule does the same to a constant and to a column of different values."""
    agent = _agent(fields={name: rule})
    assert _rows(agent, [{name: value}])[0].get(name) == expected
    other = {"source.ip": "198.51.100.9"}.get(name, type(value)(value) if isinstance(value, bytes) else value)
    assert _rows(agent, [{name: value}, {name: other, "network.bytes": 1}, {}])[0].get(name) == expected


def test_hash_keeps_the_type_of_its_field() -> None:
    """Texts become marked tokens, numbers numbers, addresses unique local addresses, bytes bytes; equal stay equal."""
    hashed = {"method": "hash", "prefix": "u:", "length": 8}
    names = ("user.name", "source.port", "source.ip", "event.original")
    agent = _agent(fields=dict.fromkeys(names, hashed))
    first: dict[str, Value] = {
        "user.name": "jane",
        "source.port": 22,
        "source.ip": "192.0.2.1",
        "event.original": b"a",
    }
    second: dict[str, Value] = first | {"user.name": "joe", "source.port": 23, "source.ip": "2001:db8::1"}
    one, two, three = _rows(agent, [first, second, first])
    assert str(one["user.name"]).startswith("u:")
    assert len(str(one["user.name"])) == 10
    assert isinstance(one["source.port"], int)
    assert str(one["source.ip"]).startswith("fd")
    assert str(two["source.ip"]).startswith("fd")
    assert isinstance(one["event.original"], bytes)
    for name in names:
        assert one[name] == three[name] != first[name]
    assert one["user.name"] != two["user.name"]


@pytest.mark.parametrize("method", ["crypto_pan", "hash", "truncate", "ipcrypt_pfx", "ipcrypt_deterministic"])
def test_special_addresses_stay_where_the_policy_says(method: str) -> None:
    """Loopback and multicast stay with keep_special and change without, in 4 and in 16 bytes."""
    keys = KeyRing([Epoch(1, 0, bytes(range(32)))])
    special: list[Value] = ["127.0.0.1", "224.0.0.251", "::1", "ff02::fb"]
    for rows in ([{"source.ip": a} for a in special[:2]], [{"source.ip": a} for a in special]):
        fields = {"source.ip": {"method": method, "ipv4_bits": 1, "ipv6_bits": 0}}
        kept = _rows(_agent(keys, fields=fields), rows)
        assert [row["source.ip"] for row in kept] == special[: len(rows)]
        changed = _rows(_agent(keys, fields=fields, keep_special=False), rows)
        assert not {str(row["source.ip"]) for row in changed} & set(map(str, special))


def test_scrub_uses_the_events_own_names_and_the_tokens_of_the_fields() -> None:
    """In text, a user name and an address get the same token as in their fields; others' names stay."""
    agent = _agent(fields={"message": "scrub", "user.name": "hash", "event.original": "scrub"})
    text = "jane from 192.0.2.1, not joe"
    one, two = _rows(
        agent,
        [
            {"message": text, "event.original": text.encode(), "user.name": "jane", "source.ip": "192.0.2.1"},
            {"message": text, "event.original": b"\xff" + text.encode(), "user.name": "joe", "source.ip": "192.0.2.2"},
        ],
    )
    user, address, other = str(one["user.name"]), str(one["source.ip"]), str(two["user.name"])
    assert one["message"] == f"{user} from {address}, not joe"
    assert one["event.original"] == str(one["message"]).encode()
    assert two["message"] == f"jane from {address}, not {other}"
    assert two["event.original"] == b"\xff" + str(two["message"]).encode()


def test_each_event_has_the_key_of_its_time() -> None:
    """One batch over two epochs becomes two, ids as they were; what is older than every key is refused."""
    rows: list[dict[str, Value]] = [{"occurred": t, "source.ip": "192.0.2.1"} for t in (999, 1000, 1999, 2000)]
    batch = batch_of(KIND, "host", Producer(1, 1), 5, 1, rows)
    result = _agent().on_batch(batch, NOW_NS)
    assert [out.columns[TAG].at(0) for out in result.outputs] == ["default/1", "default/2"]
    first, second = (out for out in result.outputs if isinstance(out, Batch))
    ids = [batch.ids().at(row) for row in range(4)]
    assert [first.ids().at(0), first.ids().at(1), second.ids().at(0)] == ids[1:]
    assert first.columns["source.ip"].at(0) != second.columns["source.ip"].at(0)
    (refusal,) = result.refusals
    assert list(refusal.rows) == [0]
    assert refusal.reason == "no_key"


def test_the_key_of_now_where_the_policy_says_so() -> None:
    """With epoch_by = now the event's own time chooses nothing; an event without a time has the key of now too."""
    for agent, rows in ((_agent(epoch_by="now"), [{"occurred": 5}]), (_agent(), [{"network.bytes": 1}])):
        assert _rows(agent, rows)[0][TAG] == "default/1"


def test_numbers_beyond_any_clock_choose_the_last_key() -> None:
    """A time that no clock shows is not taken for one before the first key."""
    column = Numbers(np.array([2**64 - 1, 1000], np.uint64))
    batch = Batch(KIND, "host", Producer(1, 1), 0, 1, 2, {"occurred": column})
    result = _agent().on_batch(batch, NOW_NS)
    assert [out.columns[TAG].at(0) for out in result.outputs] == ["default/1", "default/2"]
    assert not result.refusals


def test_names_choose_rules_by_length() -> None:
    """A field's own rule comes first, then the longest name space, then its type, then the default."""
    fields = {"json.*": "hash", "json.a.*": "keep", "json.a.secret": "drop"}
    agent = _agent(default="keep", fields=fields)
    (row,) = _rows(agent, [{"json.x": "1", "json.a.x": "1", "json.a.secret": "1", "message": "1"}])
    assert str(row["json.x"]).startswith("h:")
    assert row["json.a.x"] == row["message"] == "1"
    assert "json.a.secret" not in row


def test_nulls_stay_nulls() -> None:
    """A row without the field has none afterwards, in every kind of column."""
    nulls = np.array([True, False])
    agent = _agent(fields={"user.name": "hash", "source.port": "hash", "event.original": "hash"})
    columns: dict[str, Column] = {
        "user.name": Text(*pack([b"", b"x"]), nulls),
        "source.port": Numbers(np.array([0, 1], np.uint16), nulls),
        "source.ip": Addresses(np.array([0, 1], ">u4"), nulls),
        "event.original": Bytes(*pack([b"", b"x"]), nulls),
    }
    for name, column in columns.items():
        first, second = _column(agent, name, column)
        assert first is None
        assert second is not None


def test_a_policy_tells_all_its_mistakes() -> None:
    """Settings that can not work are told together, each with its field."""
    fields = {"id": "drop", "parents": "hash", "user.name": {"method": "hash", "length": 2}}
    with pytest.raises(ConfigError) as caught:
        _agent(
            default="hash", special=["loopback"], fields=fields | {"event.start": {"method": "truncate", "unit": "1y"}}
        )
    assert len(caught.value.mistakes) == 6


def test_a_key_that_would_cancel_the_cipher_is_refused() -> None:
    """ipcrypt_pfx needs two different halves; the anonymizer does not start with a key that has equal ones."""
    with pytest.raises(SecurityError, match="two different halves"):
        _agent(fields={"source.ip": "ipcrypt_pfx"})


def test_more_epochs_than_are_kept_ready() -> None:
    """Events of many epochs at once each get their own key, whichever were used before."""
    keys = KeyRing([Epoch(number, number, bytes([number]) * 32) for number in range(1, 10)])
    agent = _agent(keys)
    rows: list[dict[str, Value]] = [{"occurred": number, "source.ip": "192.0.2.1"} for number in range(1, 10)]
    first = [row["source.ip"] for row in _rows(agent, rows)]
    assert len(set(first)) == 9
    assert [row["source.ip"] for row in _rows(agent, rows)] == first
