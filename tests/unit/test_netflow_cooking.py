"""The NetFlow cooking: state between datagrams, what becomes of missing and broken data, fields that are derived."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import pytest

from eddy_agents.transformers.netflow import EXAMPLES, Config, Cooking
from eddy_mesh.agent import Result
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columnize import column_of
from eddy_mesh.columns import Bytes, Column, Constant, Numbers, pack
from eddy_mesh.fields import FieldType
from eddy_mesh.rows import flat_row, flat_rows

RAW = Kind(Stage.RAW, EventClass.NETWORK, "netflow")
Row = dict[str, Value]
SECOND_NS = 1_000_000_000
PAIR = ((8, 4), (12, 4))


def raw_batch(
    payloads: Sequence[bytes],
    first: int = 0,
    addresses: Sequence[str] = (),
    columns: Mapping[str, Column] | None = None,
) -> Batch:
    """Raw events of datagrams, from 192.0.2.1 where no address is given."""
    count = len(payloads)
    held: dict[str, Column] = {
        "event.original": Bytes(*pack(payloads)),
        "host_address": column_of(FieldType.ADDRESS, list(addresses) or ["192.0.2.1"] * count),
        "observed": Numbers(np.arange(first, first + count, dtype=np.int64)),
    }
    return Batch(RAW, "test", Producer(1, 1), first, 1, count, held | dict(columns or {}))


def rows(result: Result) -> list[Row]:
    """Every event of a result."""
    found: list[Row] = []
    for draft in result.outputs:
        assert not isinstance(draft, Batch)
        assert all(len(column) == draft.count for column in draft.columns.values())
        found.extend(flat_rows(Batch(draft.kind, "test", Producer(2, 1), 0, 1, draft.count, draft.columns)))
    return found


def words(fields: Sequence[tuple[int, int]]) -> bytes:
    """Template fields on the wire."""
    return b"".join(struct.pack(">HH", *field) for field in fields)


def flow_set(number: int, content: bytes) -> bytes:
    """A set with its header."""
    return struct.pack(">HH", number, len(content) + 4) + content


def template(fields: Sequence[tuple[int, int]], number: int = 256, *, version: int = 9) -> bytes:
    """A template set of one template."""
    return flow_set(0 if version == 9 else 2, struct.pack(">HH", number, len(fields)) + words(fields))


def v9(*sets: bytes, sequence: int = 1, domain: int = 0, uptime_ms: int = 10_000, seconds: int = 100) -> bytes:
    """A v9 datagram."""
    return struct.pack(">HHIIII", 9, len(sets), uptime_ms, seconds, sequence, domain) + b"".join(sets)


def ipfix(*sets: bytes, sequence: int = 0, domain: int = 0, seconds: int = 100) -> bytes:
    """An IPFIX message."""
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), seconds, sequence, domain) + body


def cook(*payloads: bytes, config: Config | None = None) -> list[Row]:
    """The events of datagrams that come one a batch."""
    cooking = Cooking(config or Config())
    return [row for n, payload in enumerate(payloads) for row in rows(cooking.on_batch(raw_batch([payload], n), n))]


PAIR_DATA = flow_set(256, bytes([10, 0, 0, 1, 10, 0, 0, 2]))


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples(example: object) -> None:
    """The examples that the cooking carries hold."""
    assert hasattr(example, "given")
    assert hasattr(example, "expected")
    found = cook(*example.given)
    for row, expected in zip(found, example.expected, strict=True):
        assert expected.items() <= row.items()


def test_data_before_its_template_is_kept_with_its_own_envelope() -> None:
    """Data that came first is released by the template; parent and times are those of its own datagram."""
    cooking = Cooking(Config())
    early = raw_batch([v9(PAIR_DATA, seconds=50), v9(PAIR_DATA, seconds=51, sequence=2)], first=40)
    assert cooking.on_batch(early, 1) == Result([], [])
    late = raw_batch([v9(template(PAIR), PAIR_DATA, seconds=60, sequence=3)], first=90)
    found = rows(cooking.on_batch(late, 2))
    assert [row["observed"] for row in found] == [40, 41, 90]
    assert [row["netflow.export_time"] for row in found] == [50 * SECOND_NS, 51 * SECOND_NS, 60 * SECOND_NS]
    assert [row["parents"] for row in found] == [
        [flat_row(early, 0)["id"]],
        [flat_row(early, 1)["id"]],
        [flat_row(late, 0)["id"]],
    ]


def test_templates_belong_to_exporter_and_domain() -> None:
    """Neither another exporter nor another domain may use a template."""
    cooking = Cooking(Config())
    cooking.on_batch(raw_batch([v9(template(PAIR))]), 0)
    batch = raw_batch(
        [v9(PAIR_DATA), v9(PAIR_DATA, domain=5), v9(PAIR_DATA, sequence=2)],
        addresses=["192.0.2.2", "192.0.2.1", "192.0.2.1"],
    )
    found = rows(cooking.on_batch(batch, 0))
    assert [(row["observed"], row["observer.ip"]) for row in found] == [(2, "192.0.2.1")]


def test_an_exporter_is_the_same_however_its_address_is_held() -> None:
    """A column of IPv4, of mixed addresses and a constant text name the same exporter."""
    cooking = Cooking(Config())
    cooking.on_batch(raw_batch([v9(template(PAIR))], columns={"host_address": Constant("192.0.2.1", 1)}), 0)
    mixed = raw_batch([v9(PAIR_DATA, sequence=2)] * 2, addresses=["192.0.2.1", "2001:db8::1"])
    assert [row["observer.ip"] for row in rows(cooking.on_batch(mixed, 0))] == ["192.0.2.1"]


def test_ports_tell_exporters_apart_where_asked() -> None:
    """With port_tells_exporters two ports of one address have templates of their own."""
    ports = Numbers(np.array([1000, 2000], np.uint16))
    for asked, count in ((False, 1), (True, 0)):
        cooking = Cooking(Config(port_tells_exporters=asked))
        batch = raw_batch([v9(template(PAIR)), v9(PAIR_DATA, sequence=2)], columns={"source.port": ports})
        assert len(rows(cooking.on_batch(batch, 0))) == count


def test_a_template_may_change() -> None:
    """Data is read by the template that was last before it, also within one batch."""
    other = template(((12, 4), (8, 4)))
    batch = raw_batch([v9(template(PAIR), PAIR_DATA), v9(other, PAIR_DATA, sequence=2)])
    found = rows(Cooking(Config()).on_batch(batch, 0))
    assert [row["source.ip"] for row in found] == ["10.0.0.1", "10.0.0.2"]


def test_data_after_a_withdrawal_waits() -> None:
    """A withdrawn template reads nothing any more."""
    withdrawal = flow_set(2, struct.pack(">HH", 256, 0))
    found = cook(ipfix(template(PAIR, version=10)), ipfix(PAIR_DATA), ipfix(withdrawal, PAIR_DATA, sequence=1))
    assert [row["observed"] for row in found] == [1]


def test_sets_before_a_broken_one_are_cooked_and_the_datagram_is_refused() -> None:
    """What is whole is kept; the row is counted under the reason."""
    result = Cooking(Config()).on_batch(raw_batch([v9(template(PAIR), PAIR_DATA, b"\1\0\0\x63abc")]), 0)
    assert len(rows(result)) == 1
    assert [(list(refusal.rows), refusal.reason) for refusal in result.refusals] == [([0], "truncated")]


def test_refusals_are_counted_by_reason() -> None:
    """Each reason has its rows, once each; events without octets are refused too."""
    batch = raw_batch([b"\0\6", v9(), b"", v9(flow_set(99, b"abcd"), flow_set(98, b"abcd"))])
    refused = {refusal.reason: list(refusal.rows) for refusal in Cooking(Config()).on_batch(batch, 0).refusals}
    assert refused == {"bad_version": [0], "truncated": [2], "bad_set_id": [3]}
    nothing = Batch(RAW, "test", Producer(1, 1), 0, 1, 2, {})
    assert [refusal.reason for refusal in Cooking(Config()).on_batch(nothing, 0).refusals] == ["no_payload"]


def test_a_batch_of_equal_datagrams_may_be_a_constant() -> None:
    """A constant column of octets holds that datagram in each row."""
    payload = v9(template(PAIR), PAIR_DATA)
    batch = Batch(RAW, "test", Producer(1, 1), 0, 1, 2, {"event.original": Constant(payload, 2)})
    found = rows(Cooking(Config()).on_batch(batch, 0))
    assert len(found) == 2
    assert "observer.ip" not in found[0]


def test_data_without_room_is_refused_and_given_up_data_is_told() -> None:
    """A full store refuses the newest data as ``template_unknown``; what waited in vain becomes an event."""
    cooking = Cooking(Config(max_pending_sets=1, pending_lifetime_s=5.0))
    batch = raw_batch([v9(PAIR_DATA), v9(PAIR_DATA, sequence=2)])
    refusals = cooking.on_batch(batch, SECOND_NS).refusals
    assert [(list(refusal.rows), refusal.reason) for refusal in refusals] == [([1], "template_unknown")]
    assert rows(cooking.on_tick(2 * SECOND_NS)) == []
    (told,) = rows(cooking.on_tick(60 * SECOND_NS))
    assert (told["type"], told["event_class"], told["edge.count"]) == ("netflow.template_unknown", "derived", 1)
    assert (told["netflow.template"], told["observer.ip"]) == (256, "192.0.2.1")
    assert told["parents"] == [flat_row(batch, 0)["id"]]


def test_a_gap_is_an_event() -> None:
    """Missing datagrams are told with their number, by the datagram that showed it, within a second at the latest."""
    cooking = Cooking(Config())
    batch = raw_batch([v9(template(PAIR), sequence=7), v9(PAIR_DATA, sequence=10)])
    assert [row["type"] for row in rows(cooking.on_batch(batch, SECOND_NS))] == ["netflow.v9"]
    (gap,) = rows(cooking.on_tick(3 * SECOND_NS))
    assert (gap["type"], gap["event_class"]) == ("netflow.gap", "derived")
    assert (gap["netflow.expected_sequence"], gap["netflow.sequence"], gap["netflow.lost"]) == (8, 10, 2)
    assert gap["parents"] == [flat_row(batch, 1)["id"]]
    assert rows(cooking.on_tick(9 * SECOND_NS)) == []


def sampler_options(template_id: int = 300) -> tuple[bytes, bytes]:
    """A v9 options template for sampler id and random interval, and two records of it."""
    announced = flow_set(1, struct.pack(">HHH", template_id, 4, 8) + words(((1, 4), (48, 1), (50, 4))))
    told = flow_set(template_id, struct.pack(">IBIIBI", 0, 1, 100, 0, 2, 500))
    return announced, told


def test_sampling_is_applied_by_sampler() -> None:
    """Flows have the interval of the sampler that they name, from the moment it is known."""
    announced, told = sampler_options()
    fields = template((*PAIR, (48, 1)))
    data = flow_set(256, bytes([10, 0, 0, 1, 10, 0, 0, 2, 1]) + bytes([10, 0, 0, 1, 10, 0, 0, 2, 2]))
    found = cook(v9(announced, fields), v9(told, sequence=2), v9(data, sequence=3))
    assert [row["type"] for row in found] == ["netflow.options"] * 2 + ["netflow.v9"] * 2
    assert [row["netflow.scope_system"] for row in found[:2]] == [0, 0]
    assert [row["netflow.sampling_interval"] for row in found[2:]] == [100, 500]


def test_sampling_that_was_announced_and_not_told_is_an_event_once() -> None:
    """An options template for a rate without data leads to one notice after the time set for it."""
    cooking = Cooking(Config(sampling_notice_s=10.0))
    announced, told = sampler_options()
    cooking.on_batch(raw_batch([v9(announced), v9(announced, domain=1), v9(told, domain=1, sequence=2)]), 0)
    assert rows(cooking.on_tick(9 * SECOND_NS)) == []
    (notice,) = rows(cooking.on_tick(11 * SECOND_NS))
    assert (notice["type"], notice["netflow.domain"], notice["netflow.template"]) == ("netflow.sampling", 0, 300)
    assert rows(cooking.on_tick(12 * SECOND_NS)) == []


def test_uptimes_become_times_across_a_wrap() -> None:
    """Times that count from the exporter's start are put on the clock, also where the counter wrapped since."""
    data = flow_set(256, struct.pack(">II", 2**32 - 500, 100))
    (row,) = cook(v9(template(((22, 4), (21, 4))), data, uptime_ms=200, seconds=1000))
    assert row["event.start"] == 1000 * SECOND_NS - 700_000_000
    assert row["event.end"] == row["occurred"] == 1000 * SECOND_NS - 100_000_000
    assert row["event.duration"] == 600_000_000


def test_ipfix_uptimes_stay_numbers_until_the_start_is_known() -> None:
    """IPFIX has no uptime: the number is kept, and becomes a time once an options record tells the start."""
    options = flow_set(3, struct.pack(">HHH", 300, 2, 1) + words(((143, 4), (160, 8))))
    told = flow_set(300, struct.pack(">IQ", 1, 5_000))
    data = flow_set(256, struct.pack(">II", 1000, 3000))
    first, _, second = cook(
        ipfix(template(((22, 4), (21, 4)), version=10), data), ipfix(options, told, sequence=1), ipfix(data, sequence=2)
    )
    assert (first["netflow.flowStartSysUpTime"], first["netflow.flowEndSysUpTime"]) == (1000, 3000)
    assert "event.start" not in first
    assert first["occurred"] == 100 * SECOND_NS
    assert (second["event.start"], second["event.end"]) == (6 * SECOND_NS, 8 * SECOND_NS)
    assert second["netflow.flowStartSysUpTime"] == 1000


def test_an_ipfix_record_may_carry_the_start_itself() -> None:
    """SystemInitTimeMilliseconds in the flow record puts its uptimes on the clock."""
    fields = template(((160, 8), (21, 4)), version=10)
    (row,) = cook(ipfix(fields, flow_set(256, struct.pack(">QI", 7_000, 500))))
    assert row["event.end"] == 7_500_000_000
    assert row["netflow.systemInitTimeMilliseconds"] == 7 * SECOND_NS


def test_both_versions_of_an_address_in_one_template() -> None:
    """The address that is not zero wins in each row; the later element stays under its own name."""
    fields = template(((8, 4), (12, 4), (27, 16), (28, 16)))
    v4_row = bytes([10, 0, 0, 1, 10, 0, 0, 2]) + bytes(32)
    v6_row = bytes(8) + bytes.fromhex("20010db8" + "0" * 22 + "01" + "20010db8" + "0" * 22 + "02")
    first, second = cook(v9(fields, flow_set(256, v4_row + v6_row)))
    assert (first["source.ip"], first["network.type"]) == ("10.0.0.1", "ipv4")
    assert (second["source.ip"], second["network.type"]) == ("2001:db8::1", "ipv6")
    assert second["netflow.sourceIPv6Address"] == "2001:db8::1"


def test_an_element_twice_keeps_both() -> None:
    """The inner header of a tunnel repeats elements: the outer ones keep the field, the inner ones have a name."""
    fields = template(((7, 2), (7, 2), (7, 2)))
    (row,) = cook(v9(fields, flow_set(256, struct.pack(">HHH", 0, 2, 3))))
    assert (row["source.port"], row["netflow.sourceTransportPort"], row["netflow.sourceTransportPort_2"]) == (0, 2, 3)


def test_ports_of_two_protocols_in_one_template() -> None:
    """A template with UDP and TCP ports gives the one that is not zero."""
    fields = template(((180, 2), (182, 2)), version=10)
    found = cook(ipfix(fields, flow_set(256, struct.pack(">HHHH", 53, 0, 0, 80))))
    assert [row["source.port"] for row in found] == [53, 80]


def test_mpls_labels() -> None:
    """Label stack sections are kept as octets and as a list of labels."""
    fields = template(((70, 3), (71, 3), (72, 3)))
    found = cook(v9(fields, flow_set(256, bytes.fromhex("00045a 05ef1b 000000") + bytes(9))))
    assert [row["netflow.mpls_labels"] for row in found] == [[69, 24305], []]
    assert found[0]["netflow.mplsLabelStackSection2"] == "05ef1b"


def test_records_of_variable_length_wait_and_come_out_like_others() -> None:
    """Variable-length records before their template are kept and have all columns when it comes."""
    data = flow_set(256, bytes([10, 0, 0, 1]) + b"\3abc" + bytes([10, 0, 0, 2]) + b"\0")
    found = cook(ipfix(data), ipfix(template(((8, 4), (82, 65535)), version=10), sequence=2))
    assert [(row["source.ip"], row["netflow.interfaceName"], row["observed"]) for row in found] == [
        ("10.0.0.1", "abc", 0),
        ("10.0.0.2", "", 0),
    ]


def test_exporters_of_the_same_layout_share_one_draft() -> None:
    """Flows of many exporters with the same fields leave as one draft, each with its exporter and template id."""
    payloads = [v9(template(PAIR, number), flow_set(number, bytes(8)), domain=number) for number in (256, 300)]
    result = Cooking(Config()).on_batch(raw_batch(payloads, addresses=["192.0.2.1", "192.0.2.2"]), 0)
    assert len(result.outputs) == 1
    found = [(row["observer.ip"], row["netflow.template"], row["netflow.domain"]) for row in rows(result)]
    assert found == [("192.0.2.1", 256, 256), ("192.0.2.2", 300, 300)]


def test_a_forgotten_exporter_tells_what_waited() -> None:
    """Where the room for exporters ends, data of the forgotten one is not lost silently."""
    cooking = Cooking(Config(max_exporters=1))
    batch = raw_batch([v9(PAIR_DATA), v9(PAIR_DATA)], addresses=["192.0.2.1", "192.0.2.2"])
    (told,) = rows(cooking.on_batch(batch, 0))
    assert (told["type"], told["observer.ip"]) == ("netflow.template_unknown", "192.0.2.1")


def test_config_refuses_limits_of_nothing() -> None:
    """A limit below one can not work and is refused."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"max_exporters": 0}, Config)


# --- counters, sampling of interfaces, restarts, other versions --------------------------------------------------


def test_total_counters_stand_in_for_delta_counters() -> None:
    """An exporter that sends totals of a flow (YAF) has octets and packets like any other."""
    fields = template(((85, 8), (86, 4)), version=10)
    (row,) = cook(ipfix(fields, flow_set(256, struct.pack(">QI", 900, 3))))
    assert (row["network.bytes"], row["network.packets"], row["netflow.octetTotalCount"]) == (900, 3, 900)
    assert "source.bytes" not in row


def test_initiator_and_responder_are_directions_and_their_sum_the_flow() -> None:
    """A firewall's event (ASA NSEL) has octets by direction, their sum, and the time at which it was observed."""
    fields = template(((231, 4), (232, 4), (298, 4), (299, 4), (323, 8)))
    data = flow_set(256, struct.pack(">IIIIQ", 100, 2**32 - 1, 1, 2, 99_500))
    (row,) = cook(v9(fields, data, seconds=200))
    assert (row["source.bytes"], row["destination.bytes"], row["network.bytes"]) == (100, 2**32 - 1, 2**32 + 99)
    assert (row["source.packets"], row["destination.packets"], row["network.packets"]) == (1, 2, 3)
    assert row["occurred"] == 99_500_000_000


def test_a_delta_count_is_believed_before_the_sum_of_directions() -> None:
    """Where the exporter counts the flow itself, its number stays; one direction alone is what there is."""
    fields = template(((1, 4), (232, 4), (298, 4)))
    (row,) = cook(v9(fields, flow_set(256, struct.pack(">III", 500, 300, 4))))
    assert (row["network.bytes"], row["destination.bytes"]) == (500, 300)
    assert (row["network.packets"], row["source.packets"]) == (4, 4)


@pytest.mark.parametrize(("octets", "packets"), [(1, 2), (85, 86)])
def test_reverse_counters_are_the_other_direction(octets: int, packets: int) -> None:
    """A flow of both directions (RFC 5103) has each of them and their sum, from delta and from total counts."""
    forward = words(((octets, 8), (packets, 4)))
    reverse = struct.pack(">HHIHHI", 0x8000 | octets, 8, 29305, 0x8000 | packets, 4, 29305)
    fields = flow_set(2, struct.pack(">HH", 256, 4) + forward + reverse)
    data = flow_set(256, struct.pack(">QIQI", 700, 7, 2**64 - 2, 1) + struct.pack(">QIQI", 1, 1, 2, 2))
    first, second = cook(ipfix(fields, data))
    assert (first["source.bytes"], first["destination.bytes"], first["network.bytes"]) == (700, 2**64 - 2, 2**64 - 1)
    assert (first["network.packets"], second["network.bytes"], second["network.packets"]) == (8, 3, 3)


def test_an_end_before_the_start_has_no_duration() -> None:
    """Both times are kept as they came; a duration below zero is none."""
    fields = template(((152, 8), (153, 8)), version=10)
    good, bad = cook(ipfix(fields, flow_set(256, struct.pack(">QQQQ", 1000, 3000, 3000, 1000))))
    assert (good["event.duration"], bad.get("event.duration")) == (2 * SECOND_NS, None)
    assert (bad["event.start"], bad["event.end"]) == (3 * SECOND_NS, SECOND_NS)


def test_an_observation_at_zero_is_none() -> None:
    """A time that was not filled in does not take the flow to 1970."""
    (row,) = cook(v9(template(((323, 8), (8, 4))), flow_set(256, bytes(12)), seconds=200))
    assert row["occurred"] == 200 * SECOND_NS


@pytest.mark.parametrize("scope", [2, 4])
def test_sampling_is_applied_by_interface(scope: int) -> None:
    """Rates of interfaces reach the flows that came in there; scoped in the v9 way, or by an element of the record."""
    head = struct.pack(">HHH", 300, 4, 4) + words(((2, 4), (34, 4)))
    if scope == 4:
        head = struct.pack(">HHH", 300, 4, 8) + words(((1, 0), (10, 4), (34, 4)))
    told = flow_set(300, struct.pack(">IIII", 1, 100, 2, 1000))
    data = flow_set(256, b"".join(bytes([10, 0, 0, 1]) + struct.pack(">H", number) for number in (2, 1, 3)))
    found = cook(v9(flow_set(1, head)), v9(told, sequence=2), v9(template(((8, 4), (10, 2))), data, sequence=3))
    assert [row.get("netflow.sampling_interval") for row in found[2:]] == [1000, 100, None]


def test_a_rate_told_in_one_domain_holds_in_the_others() -> None:
    """An exporter that tells its only rate in domain 0 has it in every domain, another exporter has not."""
    announced, told = sampler_options()
    cooking = Cooking(Config())
    flows = [v9(template(PAIR), PAIR_DATA, domain=2)] * 2
    told = told[: 4 + 9] + bytes(3)
    first = rows(
        cooking.on_batch(raw_batch([v9(announced), v9(struct.pack(">HH", 300, 16) + told[4:], sequence=2)]), 0)
    )
    assert len(first) == 1
    found = rows(cooking.on_batch(raw_batch(flows, addresses=["192.0.2.1", "192.0.2.2"]), 0))
    assert [row.get("netflow.sampling_interval") for row in found] == [100, None]


def test_samplers_are_bounded_in_all() -> None:
    """Samplers beyond the room that all exporters share are refused by name; their options events come all the same."""
    announced, told = sampler_options()
    cooking = Cooking(Config(max_samplers=1))
    result = cooking.on_batch(raw_batch([v9(announced), v9(told, sequence=2)]), 0)
    assert len(rows(result)) == 2
    assert [(list(refusal.rows), refusal.reason) for refusal in result.refusals] == [([1], "sampler_limit")]


def test_data_of_a_restarted_exporter_waits_for_its_templates() -> None:
    """After a restart the old template reads nothing: data waits for the new one, and comes out right."""
    other = template(((12, 4), (8, 4)))
    before = v9(template(PAIR), PAIR_DATA, sequence=700, uptime_ms=10**8, seconds=200_000)
    after = v9(PAIR_DATA, sequence=1, uptime_ms=1000, seconds=200_060)
    found = cook(before, after, v9(other, sequence=2, uptime_ms=2000, seconds=200_061))
    assert [(row["source.ip"], row["observed"]) for row in found] == [("10.0.0.1", 0), ("10.0.0.2", 1)]


def test_a_late_datagram_or_a_second_exporter_is_no_restart_each_time() -> None:
    """A late datagram of the same start changes nothing; two exporters behind one address disturb each other once."""
    late = v9(PAIR_DATA, sequence=690, uptime_ms=10**8 - 20_000, seconds=199_980)
    first = v9(template(PAIR), PAIR_DATA, sequence=700, uptime_ms=10**8, seconds=200_000)
    second = v9(template(PAIR), PAIR_DATA, sequence=5, uptime_ms=1000, seconds=200_000)
    plain = v9(PAIR_DATA, sequence=701, uptime_ms=10**8 + 1000, seconds=200_001)
    again = v9(PAIR_DATA, sequence=6, uptime_ms=2000, seconds=200_001)
    assert len(cook(first, late, second, plain, again)) == 5


FIXED_ENDS = bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 0, 0, 0]) + struct.pack(">HHIIIIHH", 3, 4, 7, 900, 1000, 4000, 53, 99)


def test_version_1() -> None:
    """A v1 record has ends, counts and times like a v5 record; there is no sequence number and no AS."""
    record = FIXED_ENDS + bytes([0, 0, 17, 8, 0x1B]) + bytes(11)
    payload = struct.pack(">HHIII", 1, 2, 5000, 100, 0) + record + record
    first, second = cook(payload)
    assert (first["type"], first["source.ip"], first["destination.port"]) == ("netflow.v1", "10.0.0.1", 99)
    assert (first["network.bytes"], first["network.packets"], first["network.transport"]) == (900, 7, "udp")
    assert (first["netflow.tcp_flags"], first["netflow.ipClassOfService"]) == ("FSPA", 8)
    assert (first["event.end"], first["event.duration"]) == (99 * SECOND_NS, 3 * SECOND_NS)
    assert "netflow.sequence" not in first
    assert second["source.port"] == 53


def test_version_7() -> None:
    """A v7 record has AS and masks, and the router that the switch went past; gaps are counted in flows."""
    record = FIXED_ENDS + bytes([0, 2, 6, 8]) + struct.pack(">HHBBHI", 65001, 65002, 24, 16, 0, 0x0A0000FE)
    payloads = [struct.pack(">HHIIIII", 7, 1, 5000, 100, 0, number, 0) + record for number in (1, 2, 9)]
    cooking = Cooking(Config(reorder_datagrams=1))
    found = rows(cooking.on_batch(raw_batch(payloads), 0))
    assert [row["type"] for row in found] == ["netflow.v7"] * 3
    assert (found[0]["source.as.number"], found[0]["netflow.tcp_flags"]) == (65001, "S")
    assert found[0]["netflow.exporterIPv4Address"] == "10.0.0.254"
    (gap,) = rows(cooking.on_tick(2 * SECOND_NS))
    assert (gap["netflow.expected_sequence"], gap["netflow.lost"]) == (3, 6)
