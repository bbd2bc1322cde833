"""Subjects, lifecycle, ledgers and the field registry."""

from __future__ import annotations

import pytest

from eddy_mesh import subjects
from eddy_mesh.batch import Kind
from eddy_mesh.cer import (
    EventClass,
    Stage,
    epoch_in,
    event_id,
    id_high,
    id_low,
    producer_in,
    sequence_in,
    stamp_in,
)
from eddy_mesh.commands import Command, State, after, command_of
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import UsageError, WireError
from eddy_mesh.fields import FieldType, field, level_number, nearest, registry, type_of
from eddy_mesh.selection.prefilter import subject_matches


@pytest.mark.parametrize("text", ["", "web-1", "Web.Example.ORG", "a b>c*", "é", "=", "\udcff", "x=41"])
def test_escape_is_reversible_and_gives_one_token(text: str) -> None:
    """Any text becomes one lower-case token and comes back."""
    token = subjects.escape(text)
    assert not set(token) & set(" .*>ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert token
    assert subjects.unescape(token) == text


def test_event_subjects_are_read_as_they_were_built() -> None:
    """A type of several tokens and an origin with dots survive."""
    address = subjects.Address("eddy", Stage.COOKED, EventClass.NETWORK, "netflow.v9", "Edge.1")
    assert subjects.event(address) == "eddy.event.cooked.network.netflow.v9.=45dge=2e1"
    assert subjects.parse_event(subjects.event(address)) == address


@pytest.mark.parametrize(
    "subject", ["", "eddy", "eddy.event.raw.network.x", "eddy.event.odd.network.x.h", "a.flow.b.c.d.e"]
)
def test_a_subject_that_is_none_is_a_wire_error(subject: str) -> None:
    """Subjects come from outside."""
    with pytest.raises(WireError):
        subjects.parse_event(subject)


def test_control_subjects_name_host_agent_and_verb() -> None:
    """To one agent, and to all."""
    assert subjects.parse_control(subjects.control("eddy", "h.1", "cook-netflow", "pause")) == (
        "h.1",
        "cook-netflow",
        "pause",
    )
    assert subjects.parse_control(subjects.control_all("eddy", "stats")) == ("all", "host", "stats")


@pytest.mark.parametrize("tail", ["", "all", "all.b.ping", "h.ping", "h.b.ping.more"])
def test_a_subject_that_is_no_command_is_a_wire_error(tail: str) -> None:
    """One to all names no agent, one to an agent does."""
    with pytest.raises(WireError, match="no control subject"):
        subjects.parse_control(f"eddy.control.{tail}")


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [
        (subjects.controls_of("eddy", "h.1"), subjects.control("eddy", "h.1", "cook", "pause")),
        (subjects.controls_all("eddy"), subjects.control_all("eddy", "stats")),
        (subjects.queries_of("eddy", "archive", "h.1/a"), subjects.query("eddy", "archive", "h.1/a", "select")),
        (subjects.status_all("eddy"), subjects.status("eddy", "h.1", "cook")),
        (subjects.emit_all("eddy"), subjects.emit("eddy", "backup.done")),
        (
            subjects.events_of("eddy", Stage.RAW, None, "netflow.v9"),
            subjects.event(subjects.Address("eddy", Stage.RAW, EventClass.NETWORK, "netflow.v9", "h.1")),
        ),
    ],
)
def test_a_wildcard_takes_what_is_built_beside_it(pattern: str, subject: str) -> None:
    """Receivers listen to what senders send, and to nothing of another backplane."""
    assert subject_matches(subject, pattern)
    assert not subject_matches("other" + subject.removeprefix("eddy"), pattern)


def test_emit_and_query_subjects_are_read_as_they_were_built() -> None:
    """Types of several tokens, and agents with a slash; what is neither is refused."""
    assert subjects.parse_emit(subjects.emit("Own.Mesh", "Backup.done")) == "Backup.done"
    assert subjects.parse_query(subjects.query("eddy", "archive", "h.1/a", "select")) == ("archive", "h.1/a", "select")
    with pytest.raises(WireError, match="no emit subject"):
        subjects.parse_emit("eddy.event.x")
    with pytest.raises(WireError, match="no query subject"):
        subjects.parse_query("eddy.query.archive.any")


def test_a_bucket_is_named_with_what_stores_allow() -> None:
    """A backplane of odd letters has a bucket too."""
    assert subjects.bucket("eddy", "topology") == "eddy_topology"
    assert subjects.bucket("a.b", "topology") == "a-2eb_topology"


def test_a_kind_is_read_as_it_is_told() -> None:
    """A type of several words comes back whole; what is no kind is refused."""
    kind = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
    assert Kind.parse(kind.text) == kind
    for text, why in (("", "unpack"), ("cooked.network", "unpack"), ("odd.network.x", "not a valid Stage")):
        with pytest.raises(ValueError, match=why):
            Kind.parse(text)


def test_commands_change_states_as_the_table_says() -> None:
    """Pause and resume go there and back; asking changes nothing; nonsense is refused with what is possible."""
    assert after(State.RUNNING, Command.PAUSE) is State.PAUSED
    assert after(State.PAUSED, Command.RESUME) is State.RUNNING
    assert after(State.FAILED, Command.STATS) is State.FAILED
    with pytest.raises(UsageError, match="possible are"):
        after(State.STOPPED, Command.PAUSE)
    with pytest.raises(UsageError, match="use one of"):
        command_of("explode")


def test_a_ledger_balances_only_when_every_event_is_counted() -> None:
    """In = out + filtered + dropped + failed + queued."""
    ledger = Ledger("a > b", offered=10, out=4, filtered=3, failed=1, queued=1)
    assert not ledger.balanced
    ledger.drop("overload", 1)
    assert ledger.difference == 0
    assert ledger.dropped == {"overload": 1}


def test_every_registered_field_has_type_and_meaning() -> None:
    """The registry is complete and its names are dotted words."""
    for name, known in registry().items():
        assert known.meaning, name
        assert name.strip() == name
        assert " " not in name


def test_fields_of_open_namespaces_are_known_and_typed_by_value() -> None:
    """tags.* and json.* are fields of any type; nothing else is made up."""
    assert field("json.a.b").type is FieldType.ANY  # type: ignore[union-attr]
    assert field("source.prot") is None
    assert nearest("source.prot") == "source.port"
    assert nearest("ip") in {"source.ip", "destination.ip", "observer.ip"}
    assert type_of("source.ip") is FieldType.ADDRESS


@pytest.mark.parametrize(
    ("text", "number"), [("warning", 4), ("WARN", 4), ("err", 3), ("7", 7), ("8", None), ("loud", None)]
)
def test_levels_are_known_by_name_and_number(text: str, number: int | None) -> None:
    """RFC 5424 names, their usual short forms, and digits."""
    assert level_number(text) == number


def test_an_id_tells_what_it_was_made_of() -> None:
    """Producer, epoch, sequence and time come back out of the bytes, each cut to its width."""
    identity = event_id(id_high(1_793_697_247_123, 1_793_697_247), id_low((1 << 30) - 1, (1 << 32) + 5))
    assert (producer_in(identity), sequence_in(identity)) == ((1 << 30) - 1, 5)
    assert (stamp_in(identity), epoch_in(identity)) == (1_793_697_247_123, 1_793_697_247 % 4096)
