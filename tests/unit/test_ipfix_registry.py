"""The registry of information elements and protocols: complete, unambiguous, total."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eddy_mesh.registry.ipfix import DataType, element, elements, scope_element
from eddy_mesh.registry.protocols import protocol_name

if TYPE_CHECKING:
    from types import ModuleType

TOOL = Path(__file__).parents[2] / "tools" / "make-ipfix-table"
IANA_HEADER = "ElementID,Name,Abstract Data Type,Data Type Semantics,Status,Description,Units\n"

# (enterprise, id) -> name, field, type: one of each kind of exporter that operators have.
KNOWN = [
    (0, 1, "octetDeltaCount", "network.bytes", DataType.UNSIGNED64),
    (0, 8, "sourceIPv4Address", "source.ip", DataType.IPV4_ADDRESS),
    (0, 28, "destinationIPv6Address", "destination.ip", DataType.IPV6_ADDRESS),
    (0, 34, "samplingInterval", "netflow.samplingInterval", DataType.UNSIGNED32),
    (0, 80, "destinationMacAddress", "destination.mac", DataType.MAC_ADDRESS),
    (0, 85, "octetTotalCount", "netflow.octetTotalCount", DataType.UNSIGNED64),
    (0, 95, "applicationId", "netflow.applicationId", DataType.OCTET_ARRAY),
    (0, 152, "flowStartMilliseconds", "event.start", DataType.DATE_TIME_MILLISECONDS),
    (0, 181, "udpDestinationPort", "destination.port", DataType.UNSIGNED16),
    (0, 210, "paddingOctets", "netflow.paddingOctets", DataType.OCTET_ARRAY),
    (0, 276, "dataRecordsReliability", "netflow.dataRecordsReliability", DataType.BOOLEAN),
    (0, 291, "basicList", "netflow.basicList", DataType.BASIC_LIST),
    (0, 311, "samplingProbability", "netflow.samplingProbability", DataType.FLOAT64),
    (0, 515, "ipv6ExtensionHeadersFull", "netflow.ipv6ExtensionHeadersFull", DataType.UNSIGNED256),
    (0, 8257, "streamcoreUrl", "netflow.streamcoreUrl", DataType.STRING),
    (0, 33000, "ingressAclId", "netflow.ingressAclId", DataType.OCTET_ARRAY),
    (0, 40001, "xlateSourceIPv4Address", "source.nat.ip", DataType.IPV4_ADDRESS),
    (9, 12236, "ciscoClientIPv4Address", "netflow.ciscoClientIPv4Address", DataType.IPV4_ADDRESS),
    (637, 93, "natSubString", "netflow.natSubString", DataType.STRING),
    (6876, 889, "vmwareVxlanExportRole", "netflow.vmwareVxlanExportRole", DataType.UNSIGNED8),
    (35632, 118, "nprobeL7Proto", "netflow.nprobeL7Proto", DataType.UNSIGNED16),
    (41916, 4321, "viptelaVPNId", "netflow.viptelaVPNId", DataType.UNSIGNED64),
]


@pytest.mark.parametrize(("enterprise", "number", "name", "field", "data_type"), KNOWN)
def test_known_elements(enterprise: int, number: int, name: str, field: str, data_type: DataType) -> None:
    """An element has its registered name and type, and the ECS field where ECS has one."""
    found = element(enterprise, number)
    assert (found.enterprise, found.id) == (enterprise, number)
    assert (found.name, found.field, found.data_type) == (name, field, data_type)


def test_iana_is_complete() -> None:
    """Every number that IANA has assigned a type to is there; the gaps are its reserved and v9-only numbers."""
    assigned = {found.id for found in elements() if found.enterprise == 0 and 0 < found.id < 8192}
    gaps = set(range(1, 534)) - assigned
    assert gaps == {65, 66, 67, 68, 69, 97, *range(105, 128), 416, 419}
    assert max(assigned) == 533


def test_fields_are_unambiguous() -> None:
    """No two elements share a field outside ECS, and the ones that share an ECS field have types that compare."""
    counts = Counter(found.field for found in elements())
    shared = {field for field, count in counts.items() if count > 1}
    assert not {field for field in shared if field.startswith("netflow.")}
    numbers = {DataType.UNSIGNED8, DataType.UNSIGNED16, DataType.UNSIGNED32, DataType.UNSIGNED64}
    for field in shared - {"event.start", "event.end", "source.ip", "destination.ip"}:
        types = {found.data_type for found in elements() if found.field == field}
        assert len(types) == 1 or types <= numbers or field.endswith("nat.ip"), field


def test_names_can_be_selected() -> None:
    """Names hold letters and digits only, so that ``netflow.<name>`` is a field that a statement can name."""
    assert [found.name for found in elements() if not (found.name.isascii() and found.name.isalnum())] == []


def test_times_and_counters_have_units() -> None:
    """Counters of octets and packets and durations carry the unit that IANA gives them."""
    assert element(0, 1).unit == "octets"
    assert element(0, 1).semantics == "deltaCounter"
    assert element(0, 2).unit == "packets"
    assert element(0, 161).unit == "milliseconds"
    assert element(0, 4).unit == ""


def test_reverse_elements() -> None:
    """Enterprise 29305 gives IANA's elements for the opposite direction, never the forward ECS field."""
    found = element(29305, 1)
    assert (found.enterprise, found.id, found.name) == (29305, 1, "reverseOctetDeltaCount")
    assert (found.field, found.data_type, found.unit) == (
        "netflow.reverseOctetDeltaCount",
        DataType.UNSIGNED64,
        "octets",
    )
    assert element(29305, 236).name == "reverseVRFname"


@pytest.mark.parametrize("number", [130, 149, 210, 239])
def test_not_reversible_elements(number: int) -> None:
    """What RFC 5103 says can not be reversed is kept under its numbers."""
    assert element(29305, number).name == f"enterprise_29305.{number}"


def test_v9_numbers_of_enterprises() -> None:
    """NetFlow v9 has no enterprise numbers: Cisco's, nProbe's and CERT's own marks lead to the same elements."""
    assert element(0, 32768 + 12236) == element(9, 12236)
    assert element(0, 57590) == element(35632, 118)
    assert element(6871, 16384 + 14).name == f"reverse{element(6871, 14).name.replace('cert', 'Cert', 1)}"


@pytest.mark.parametrize(
    ("enterprise", "number", "field"),
    [
        (0, 32000, "netflow.element_32000"),
        (0, 65535, "netflow.element_65535"),
        (4294967295, 32767, "netflow.enterprise_4294967295.32767"),
        (29305, 32767, "netflow.enterprise_29305.32767"),
    ],
)
def test_unknown_elements(enterprise: int, number: int, field: str) -> None:
    """A number that nobody registered becomes a field named after it, with its bytes kept."""
    found = element(enterprise, number)
    assert (found.enterprise, found.id, found.field) == (enterprise, number, field)
    assert found.data_type is DataType.OCTET_ARRAY


def test_every_v9_field_type_has_a_field() -> None:
    """All 65536 NetFlow v9 field types resolve, each to a field of its own unless ECS has one for several."""
    counts = Counter(element(0, number).field for number in range(65536))
    assert sum(counts.values()) == 65536
    assert not {field for field, count in counts.items() if count > 1 and field.startswith("netflow.")}


def test_scope_elements() -> None:
    """Scope field types of v9 options templates have names of their own; unknown ones are numbered."""
    assert scope_element(1).field == "netflow.scopeSystem"
    assert scope_element(2).name == "scopeInterface"
    assert scope_element(9).field == "netflow.scope_9"


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "icmp"), (6, "tcp"), (17, "udp"), (47, "gre"), (50, "esp"), (58, "ipv6-icmp"), (132, "sctp"), (253, "253")],
)
def test_protocol_names(number: int, name: str) -> None:
    """Protocols have IANA's keyword in lower case; unassigned ones keep their number."""
    assert protocol_name(number) == name


@pytest.fixture(name="tool")
def fixture_tool() -> ModuleType:
    """tools/make-ipfix-table as a module; it has no .py in its name."""
    loader = SourceFileLoader("make_ipfix_table", str(TOOL))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_tool_renews_iana_and_keeps_the_rest(tool: ModuleType, tmp_path: Path) -> None:
    """Renewing takes IANA's word for names and types, and keeps ECS fields, enterprises and v9-only numbers."""
    file = tmp_path / "iana.csv"
    file.write_text(
        IANA_HEADER
        + "0,Reserved,,,,,\n1,octetDeltaCount,unsigned64,deltaCounter,current,text,octets\n"
        + '3,"newName",unsigned8,default,current,,none\n900-999,Unassigned,,,,,\n',
        encoding="utf-8",
    )
    table = {
        (0, 1): ("oldName", "unsigned32", "", "", "network.bytes"),
        (0, 33000): ("ingressAclId", "octetArray", "", "", ""),
        (637, 93): ("natSubString", "string", "", "", ""),
    }
    assert tool.merge(table, tool.read_iana(file)) == {
        (0, 1): ("octetDeltaCount", "unsigned64", "octets", "deltaCounter", "network.bytes"),
        (0, 3): ("newName", "unsigned8", "", "", ""),
        (0, 33000): ("ingressAclId", "octetArray", "", "", ""),
        (637, 93): ("natSubString", "string", "", "", ""),
    }


def test_tool_reads_what_it_wrote(tool: ModuleType) -> None:
    """The table in the tree is in the tool's own order and form: renewing from nothing changes nothing."""
    table = tool.read_table(tool.TABLE)
    assert list(table) == sorted(table)
    assert list(table) == [(found.enterprise, found.id) for found in elements()]
    assert tool.merge(table, {}) == table


def test_tool_refuses_another_file(tmp_path: Path) -> None:
    """A file without IANA's columns is refused by name, and the table is left alone."""
    file = tmp_path / "other.csv"
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    done = subprocess.run([sys.executable, TOOL, file], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no column ElementID" in done.stderr
