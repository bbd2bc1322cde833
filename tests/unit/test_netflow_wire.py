"""The wire modules of NetFlow and IPFIX: headers, templates, values, sequence numbers, limits."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import pytest

from eddy_agents.transformers.netflow import Config
from eddy_agents.wire.netflow_datagram import (
    IPFIX,
    V5,
    V9,
    Malformed,
    defect_of_length,
    read_header,
    read_sets,
)
from eddy_agents.wire.netflow_exporter import Held, Pending, StreamKey, Streams
from eddy_agents.wire.netflow_flows import flag_letters
from eddy_agents.wire.netflow_layout import Records, layout_of
from eddy_agents.wire.netflow_sampling import Rates, Room, Sampling, interval_of
from eddy_agents.wire.netflow_sequence import Sequence
from eddy_agents.wire.netflow_template import VARIABLE, FieldSpec, Template, read_templates
from eddy_agents.wire.netflow_values import application_text, coded, decode_each, form_of
from eddy_mesh.cer import Value
from eddy_mesh.columns import Constant, Words
from eddy_mesh.registry.ipfix import element

KEY = StreamKey(1, 0, V9, 7)


def one_value(version: int, number: int, octets: bytes, enterprise: int = 0) -> Value:
    """The value of one element that is sent with these octets."""
    layout = layout_of(version, [FieldSpec(enterprise, number, len(octets))], is_options=False)
    return Records(layout, [octets]).column(layout.slots[0]).at(0)


# --- datagrams ---------------------------------------------------------------------------------------------------


def test_v9_header() -> None:
    """A v9 header gives domain, sequence, uptime and export time."""
    header = read_header(struct.pack(">HHIIII", 9, 3, 5000, 100, 77, 12) + b"rest", 0, 24)
    assert (header.version, header.domain, header.sequence, header.uptime_ms) == (V9, 12, 77, 5000)
    assert (header.export_ns, header.body, header.end) == (100_000_000_000, 20, 24)


def test_v5_header_keeps_nanoseconds_engine_and_sampling() -> None:
    """A v5 header gives its fraction of a second to the ns, engine type and id as domain, and the sampling word."""
    header = read_header(struct.pack(">HHIIIIBBH", 5, 1, 9, 10, 11, 12, 2, 3, 0x4064) + bytes(48), 0, 72)
    assert (header.version, header.export_ns, header.domain, header.sampling) == (V5, 10_000_000_011, 0x203, 0x4064)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"\0", "truncated"),
        (b"\0\6" + bytes(30), "bad_version"),
        (b"\0\x08" + bytes(30), "unsupported_version"),
        (b"\0\7\0\x1d" + bytes(20), "bad_count"),
        (b"\0\1\0\x19" + bytes(12), "bad_count"),
        (b"\0\5\0\0" + bytes(20), "bad_count"),
        (b"\0\5\0\x1f" + bytes(20), "bad_count"),
        (b"\0\5\0\1", "truncated"),
        (b"\0\x09" + bytes(17), "truncated"),
        (b"\0\x0a\0\x10" + bytes(11), "truncated"),
        (b"\0\x0a\0\x0f" + bytes(12), "bad_length"),
    ],
)
def test_bad_headers_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    """What is no header is refused under a constant name."""
    with pytest.raises(Malformed) as refused:
        read_header(data, 0, len(data))
    assert refused.value.reason == reason


def test_octets_after_an_ipfix_message_are_told_unless_zero() -> None:
    """A message ends where its length says; what follows is refused, zeros are padding."""
    message = struct.pack(">HHIII", 10, 16, 1, 2, 3)
    for rest, reason in ((bytes(4), None), (b"\1", "trailing_octets")):
        data = message + rest
        defect = defect_of_length(data, 0, len(data), read_header(data, 0, len(data)))
        assert (defect.reason if defect else None) == reason


def test_sets_before_a_broken_one_are_kept() -> None:
    """Whole sets are found even where a later one is cut or has an impossible length."""
    whole = struct.pack(">HHI", 256, 8, 1)
    for tail, reason in ((struct.pack(">HH", 257, 9), "truncated"), (b"\1\1\0\3", "bad_set_length")):
        sets, defect = read_sets(whole + tail, 0, 12)
        assert sets == [(256, 4, 8)]
        assert defect is not None
        assert defect.reason == reason


def test_zeros_at_the_end_are_padding() -> None:
    """A datagram filled up with zeros (Cisco ACI) is whole."""
    assert read_sets(struct.pack(">HHI", 256, 8, 1) + bytes(64), 0, 72) == ([(256, 4, 8)], None)


# --- templates ---------------------------------------------------------------------------------------------------


def test_templates_of_one_set_are_all_read() -> None:
    """A set holds several templates; three octets of padding are none."""
    data = struct.pack(">HHHH", 256, 1, 8, 4) + struct.pack(">HHHHHH", 257, 2, 1, 4, 2, 4) + bytes(3)
    templates, defect = read_templates(0, data, 0, len(data))
    assert defect is None
    assert [(template.id, len(template.fields)) for template in templates] == [(256, 1), (257, 2)]


def test_v9_options_template_counts_octets_and_allows_an_empty_scope() -> None:
    """v9 gives lengths of scope and options in octets; Juniper sends a scope without octets."""
    data = bytes.fromhex("0100 0004 0008 0001 0000 0023 0001 0022 0004 0000")
    templates, defect = read_templates(1, data, 0, len(data))
    assert defect is None
    assert templates[0].fields == (FieldSpec(0, 1, 0, True), FieldSpec(0, 35, 1), FieldSpec(0, 34, 4))


def test_ipfix_options_template_counts_fields_and_knows_enterprises() -> None:
    """IPFIX gives the number of fields and of scopes among them; the enterprise bit adds four octets."""
    data = struct.pack(">HHHHHHHI", 258, 2, 1, 149, 4, 0x8000 | 91, 2, 637)
    templates, defect = read_templates(3, data, 0, len(data))
    assert defect is None
    assert templates == [Template(258, (FieldSpec(0, 149, 4, True), FieldSpec(637, 91, 2)), is_options=True)]


def test_withdrawals() -> None:
    """An IPFIX template without fields is a withdrawal, of all templates where its id is that of the set."""
    templates, defect = read_templates(2, struct.pack(">HHHH", 300, 0, 2, 0), 0, 8)
    assert defect is None
    assert [(template.id, template.fields) for template in templates] == [(300, ()), (2, ())]


@pytest.mark.parametrize(
    ("set_id", "words"),
    [
        (0, (255, 1, 8, 4)),  # template ids begin at 256
        (0, (256, 0)),  # v9 has no withdrawals
        (0, (256, 2, 8, 4)),  # a field is missing
        (0, (256, 1, 8, 0)),  # records would be empty
        (0, (256, 1, 8, 65535)),  # v9 has no variable lengths
        (2, (256, 1, 0x8001, 4)),  # the enterprise number is missing
        (3, (256, 1, 2, 8, 4)),  # more scopes than fields
        (0, (256, 600, *[1, 1] * 600)),  # more fields than any exporter sends
    ],
)
def test_bad_templates_are_refused(set_id: int, words: tuple[int, ...]) -> None:
    """A template that can not be read is refused as ``bad_template``, and none is made of it."""
    data = struct.pack(f">{len(words)}H", *words)
    templates, defect = read_templates(set_id, data, 0, len(data))
    assert templates == []
    assert defect is not None
    assert defect.reason == "bad_template"


# --- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "octets", "value"),
    [
        (1, bytes.fromhex("0102"), 0x102),  # octetDeltaCount in reduced size
        (1, bytes.fromhex("010203"), 0x10203),
        (1, bytes.fromhex("0102030405"), 0x102030405),
        (1, bytes(8) + b"\1", "000000000000000001"),  # larger than the type: kept as octets
        (434, b"\xff\xff\xfe", -2),  # mibObjectValueInteger, signed, in three octets
        (8, bytes([192, 0, 2, 1]), "192.0.2.1"),
        (8, b"\1\2", "0102"),  # no address has two octets
        (27, bytes.fromhex("20010db8000000000000000000000001"), "2001:db8::1"),
        (56, bytes.fromhex("005056C00001"), "00:50:56:c0:00:01"),
        (82, b"Gi0/1\0\0\0", "Gi0/1"),
        (82, b"\xff\xfea", "\ufffd\ufffda"),
        (95, bytes.fromhex("0d0001af"), "13:431"),
        (150, struct.pack(">I", 1_500_000_000), 1_500_000_000_000_000_000),
        (152, struct.pack(">Q", 1_500_000_000_123), 1_500_000_000_123_000_000),
        (154, struct.pack(">II", 2_208_988_800 + 5, 1 << 31), 5_500_000_000),
        (156, struct.pack(">II", 2_208_988_800 + 5, 4), 5_000_000_001),
        (156, struct.pack(">II", 0, 0), (2**32 - 2_208_988_800) * 10**9),  # the NTP era that begins in 2036
        (276, b"\1", True),
        (276, b"\2", False),
        (276, b"\7", 7),
        (311, struct.pack(">f", 0.5), 0.5),
        (10, struct.pack(">I", 369139712), "369139712"),  # interface ids are text in ECS
        (70, bytes.fromhex("00045a"), "00045a"),
    ],
)
def test_values_of_elements(number: int, octets: bytes, value: Value) -> None:
    """Each data type is read as RFC 7011 section 6 says, also in reduced size; octets that fit no type are kept."""
    found = one_value(IPFIX, number, octets)
    assert found == value
    assert type(found) is type(value)


def test_a_time_out_of_range_becomes_the_last_one() -> None:
    """Milliseconds far beyond 2262 do not wrap to a wrong year."""
    assert one_value(IPFIX, 152, b"\xff" * 8) == (2**63 - 1) // 1_000_000 * 1_000_000


def test_enterprise_elements_without_a_name_are_kept() -> None:
    """Octets of an unknown element are hexadecimal text under its numbers."""
    layout = layout_of(IPFIX, [FieldSpec(4242, 7, 2)], is_options=False)
    assert layout.slots[0].field == "netflow.enterprise_4242.7"
    assert Records(layout, [b"\xca\xfe"]).column(layout.slots[0]).at(0) == "cafe"


def test_application_ids_of_enterprises() -> None:
    """Engine 20 carries the enterprise number in front of the selector."""
    assert application_text(bytes.fromhex("14 00000009 0005")) == "20:9:5"


def test_variable_values_are_typed_one_by_one() -> None:
    """In a field of variable length each value is read at its own length; an empty number is no value."""
    column = decode_each(element(0, 1), "network.bytes", [b"\5", b"", b"\1\0", b"\5"])
    assert [column.at(row) for row in range(4)] == [5, None, 256, 5]
    texts = decode_each(element(0, 82), "netflow.interfaceName", [b"a", b"", b"a"])
    assert [texts.at(row) for row in range(3)] == ["a", "", "a"]


def test_records_of_variable_length() -> None:
    """Short and long lengths are walked, padding at the end is left, and the columns are those of fixed records."""
    layout = layout_of(IPFIX, [FieldSpec(0, 8, 4), FieldSpec(0, 82, VARIABLE), FieldSpec(0, 7, 2)], is_options=False)
    data = b"\1\2\3\4" + b"\2ab" + b"\0\x35" + b"\1\2\3\5" + b"\xff\0\3xyz" + b"\0\x50" + b"\0\0"
    chunk, count, defect = layout.cut(data, 0, len(data))
    assert (count, defect) == (2, None)
    records = Records(layout, [chunk])
    values = [[records.column(slot).at(row) for slot in layout.slots] for row in range(2)]
    assert values == [["1.2.3.4", "ab", 53], ["1.2.3.5", "xyz", 80]]


def test_numbers_are_coded_alike_by_table_and_by_sorting() -> None:
    """The dictionary of small numbers and that of large ones give the same texts; one value is a constant."""
    for numbers in ([3, 1, 3], [3_000_000_000, 1, 3_000_000_000]):
        column = coded(np.array(numbers, ">u4"), str)
        assert isinstance(column, Words)
        assert [column.at(row) for row in range(3)] == [str(number) for number in numbers]
    assert coded(np.array([6, 6], np.uint8), str) == Constant("6", 2)


def test_forms_are_total() -> None:
    """Every element at every length has a form."""
    assert all(form_of(element(0, number), length) for number in range(500) for length in (1, 2, 3, 9, 16, 300))


def test_flag_letters() -> None:
    """Flags are letters from the lowest bit."""
    assert [flag_letters(flags) for flags in (0, 2, 0x12, 0xFF)] == ["", "S", "SA", "FSRPAUEC"]


# --- sampling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "interval"),
    [
        ({34: 100}, 100),
        ({50: 512, 48: 1}, 512),
        ({305: 1, 306: 255}, 256),
        ({305: 1}, 0),
        ({305: 1, 309: 1, 310: 256}, 256),
        ({311: 0.001}, 1000),
        ({311: float("nan")}, 0),
        ({311: 1e-300}, 1 << 32),
        ({34: 0}, 0),
        ({}, 0),
    ],
)
def test_sampling_interval(values: Mapping[int, Value], interval: int) -> None:
    """Every way in which options records tell a rate gives one packet in how many."""
    assert interval_of(values) == interval


def test_samplers_are_told_apart() -> None:
    """A flow that names its sampler has that sampler's interval; one that names none only where all agree."""
    sampling = Sampling()
    sampling.learn({302: 1, 34: 10})
    assert (sampling.default, sampling.interval(1), sampling.interval(9)) == (10, 10, 0)
    sampling.learn({302: 2, 34: 20})
    assert (sampling.default, sampling.interval(2)) == (0, 20)


def test_interfaces_are_told_apart() -> None:
    """A rate of an interface is its own; where all interfaces agree it is that of any flow."""
    sampling = Sampling()
    sampling.learn({10: "1", 34: 100})
    assert sampling.default == 100
    sampling.learn({10: 2, 50: 1000})
    assert (sampling.default, sampling.interfaces) == (0, {1: 100, 2: 1000})
    sampling.learn({10: 1, 34: 1000})
    assert sampling.default == 1000


def test_domains_of_one_exporter_share_its_only_rate() -> None:
    """A domain that was told nothing has the rate of its exporter while that has one, and loses it with the domain."""
    rates, room = Rates(), Room(2)
    told, other = Sampling(rates, room), Sampling(rates, room)
    assert told.learn({34: 10})
    assert (other.default, other.interval(5), other.interval(0)) == (10, 10, 0)
    assert told.learn({48: 7, 34: 20})
    assert other.default == 0
    assert not other.learn({34: 30})  # the room for two samplers is full
    told.forget()
    assert (other.default, rates.domains, room.left) == (0, 1, 2)
    assert other.learn({34: 30})


# --- sequence numbers --------------------------------------------------------------------------------------------


def lost(version: int, datagrams: list[tuple[int, int, int]], window: int = 2) -> list[tuple[int, int, int]]:
    """(expected, sequence, lost) of the gaps in (sequence, flows, clock in ms), all told at the end."""
    sequence = Sequence(version, window)
    told = []
    for number, flows, clock_ms in datagrams:
        sequence.take(number, clock_ms, flows, flows, 1)
        told.extend(sequence.due(-1))
    told.extend(sequence.due(2))
    return [(gap.expected, gap.sequence, gap.lost) for gap in told]


@pytest.mark.parametrize(
    ("version", "datagrams", "gaps"),
    [
        (V9, [(1, 9, 0), (2, 9, 1), (3, 9, 2)], []),
        (V9, [(1, 9, 0), (2, 9, 1), (5, 9, 2)], [(3, 5, 2)]),
        (V9, [(2**32 - 1, 9, 0), (0, 9, 1), (2, 9, 2)], [(1, 2, 1)]),  # the counter wraps
        (V9, [(1, 9, 0), (3, 9, 1), (2, 9, 2), (4, 9, 3)], []),  # late by one
        (V9, [(1, 9, 0), (2, 9, 1), (6, 9, 2), (4, 9, 2), (7, 9, 3)], [(3, 6, 1), (5, 6, 1)]),  # one of three came
        (V9, [(1, 9, 0), (2, 9, 1), (2, 9, 1), (3, 9, 2)], []),  # repeated
        (V9, [(80, 9, 90_000), (81, 9, 90_010), (0, 9, 100), (1, 9, 200)], []),  # restarted: the uptime fell
        (V9, [(9, 9, 0), (10, 9, 1), (11, 9, 2), (12, 9, 3), (3, 9, 3), (13, 9, 4)], []),  # much too late
        (V9, [(30, 7, 0), (37, 7, 1), (44, 5, 2), (49, 5, 3)], []),  # an exporter that counts records
        (V5, [(0, 30, 0), (30, 30, 1), (90, 30, 2)], [(60, 90, 30)]),
        (IPFIX, [(0, 5, 0), (5, 3, 0), (8, 3, 0)], []),
        (IPFIX, [(5, 5, 0), (8, 3, 0), (15, 7, 0)], []),  # softflowd counts this message too
        (IPFIX, [(5, 5, 0), (8, 3, 0), (20, 7, 0)], [(9, 20, 5)]),
    ],
)
def test_gaps(version: int, datagrams: list[tuple[int, int, int]], gaps: list[tuple[int, int, int]]) -> None:
    """Loss is found and counted in the protocol's unit; lateness, repeats, wraps and restarts are no loss."""
    assert lost(version, datagrams) == gaps


def test_an_ipfix_exporter_that_restarts_is_followed_again() -> None:
    """IPFIX has no uptime: after four datagrams with old numbers in a row the count begins anew."""
    before = [(number * 10, 10, 0) for number in range(1000, 1003)]
    after = [(number * 10, 10, 0) for number in range(8)]
    assert lost(IPFIX, before + after + [(100, 10, 0)]) == [(80, 100, 20)]


def test_a_gap_waits_for_the_late() -> None:
    """A gap is told after as many datagrams as the window allows, not before."""
    sequence = Sequence(V9, 3)
    told = []
    for number in (1, 2, 4, 5, 6, 7):
        sequence.take(number, number, 9, 9, 5)
        told.append(len(sequence.due(-1)))
    assert told == [0, 0, 0, 0, 0, 1]


# --- limits ------------------------------------------------------------------------------------------------------


def held(octets: int, seen_ns: int = 0) -> Held:
    """A data set without template."""
    return Held(bytes(octets), read_header(struct.pack(">HHIIII", 9, 1, 1, 1, 1, 1), 0, 20), {}, seen_ns)


def test_the_oldest_exporter_makes_room() -> None:
    """Beyond max_exporters the one heard of longest ago is forgotten."""
    streams = Streams(Config(max_exporters=2))
    keys = [StreamKey(number, 0, V9, 0) for number in range(3)]
    first, _ = streams.open(keys[0])
    second, _ = streams.open(keys[1])
    assert streams.get(keys[0]) is first
    _, forgotten = streams.open(keys[2])
    assert forgotten is second
    assert streams.get(keys[1]) is None


def test_templates_are_bounded_and_expire() -> None:
    """Neither one exporter nor all together fill the memory with templates; those not repeated are forgotten."""
    streams = Streams(Config(max_templates=2, max_template_fields=3, template_lifetime_s=1.0))
    stream, _ = streams.open(KEY)
    one, two = (FieldSpec(0, 8, 4),), (FieldSpec(0, 8, 4), FieldSpec(0, 12, 4))
    assert streams.define(stream, Template(256, one, is_options=False), 0)
    assert streams.define(stream, Template(257, two, is_options=False), 0)
    assert not streams.define(stream, Template(258, one, is_options=False), 0)
    assert not streams.define(stream, Template(256, two, is_options=False), 0)
    assert streams.define(stream, Template(257, two, is_options=False), 2_000_000_000)
    streams.expire(2_000_000_001)
    assert list(stream.templates) == [257]
    assert streams.define(stream, Template(258, one, is_options=False), 0)


def test_all_templates_of_a_sort_are_withdrawn() -> None:
    """A withdrawal of all templates leaves options templates."""
    streams = Streams(Config())
    stream, _ = streams.open(StreamKey(1, 0, IPFIX, 7))
    for number, is_options in ((256, False), (257, True), (258, False)):
        streams.define(stream, Template(number, (FieldSpec(0, 8, 4),), is_options), 0)
    streams.withdraw(stream, Template(2, (), is_options=False))
    assert list(stream.templates) == [257]


def test_waiting_data_is_bounded_per_exporter_and_in_all() -> None:
    """Data sets that find no room are not kept; what is released makes room."""
    limits = Config(max_pending_bytes=20, max_pending_bytes_per_exporter=12, max_pending_sets_per_exporter=2)
    pending = Pending(limits)
    other = StreamKey(2, 0, V9, 7)
    assert pending.hold(KEY, 256, held(10))
    assert not pending.hold(KEY, 256, held(10))
    assert pending.hold(other, 256, held(10))
    assert not pending.hold(StreamKey(3, 0, V9, 7), 256, held(1))
    assert len(pending.release(KEY, 256)) == 1
    assert pending.hold(KEY, 256, held(5))
    assert len(pending) == 2


def test_waiting_data_expires() -> None:
    """Data that waited longer than its lifetime is given up, newer data is not."""
    pending = Pending(Config(pending_lifetime_s=1.0))
    for seen_ns in (0, 5_000_000_000):
        pending.hold(KEY, 256, held(10, seen_ns))
    expired = pending.expire(5_500_000_000)
    assert [(key, template_id, len(sets)) for key, template_id, sets in expired] == [(KEY, 256, 1)]
    assert len(pending) == 1
    assert len(pending.forget(KEY)) == 1
    assert len(pending) == 0
