"""What host processes say of themselves, as `eddy agents`, `audit`, `types`, `subscriptions` and `control` show it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from eddy_mesh.cli import accounts
from eddy_mesh.cli.accounts import balance_text, edge_record, edge_text, flow_cells, is_used, subscribed
from eddy_mesh.cli.agents import agent_records
from eddy_mesh.cli.control import check_target, checked_verb, settings_of
from eddy_mesh.cli.inventory import census, found_fields
from eddy_mesh.cli.statuses import AgentStatus, FlowStatus, HostStatus, TypeSeen
from eddy_mesh.commands import Command
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import ConfigError, UsageError

SECOND_NS = 1_000_000_000
NOW_NS = 1_795_295_801 * SECOND_NS


def host(now_ns: int = NOW_NS, **more: object) -> HostStatus:
    """A host process."""
    return HostStatus(host="hub", now_ns=now_ns, **more)  # type: ignore[arg-type]  # the caller names members


def agent(**more: object) -> AgentStatus:
    """A source that started an hour ago."""
    told: dict[str, object] = {"agent": "in", "type": "normalizer", "state": "running"}
    return AgentStatus(**{**told, "started_ns": NOW_NS - 3600 * SECOND_NS, **more})  # type: ignore[arg-type]


def test_rates_are_differences_over_the_time_of_the_host() -> None:
    """Events/s come from two counts and the host's own clock."""
    before = host(NOW_NS - 2 * SECOND_NS, agents=[agent(made=100, edges=[Ledger("e", out=50)])])
    after = host(agents=[agent(made=300, edges=[Ledger("e", out=60)])])
    (record,) = agent_records(before, after)
    assert (record.in_rate, record.out_rate) == (5, 100)


def test_an_agent_that_is_new_or_began_again_has_no_rate() -> None:
    """Neither a first look nor a restart gives a rate that never was."""
    (record,) = agent_records(None, host(agents=[agent(made=300)]))
    assert record.out_rate == 0
    (record,) = agent_records(host(NOW_NS - SECOND_NS, agents=[agent(made=300)]), host(agents=[agent(made=3)]))
    assert record.out_rate == 0


@pytest.mark.parametrize(
    ("more", "silent"),
    [
        ({}, False),
        ({"started_ns": NOW_NS - 30 * SECOND_NS}, False),
        ({"last_ns": NOW_NS - 30 * SECOND_NS}, False),
        ({"last_ns": NOW_NS - 90 * SECOND_NS}, True),
        ({"state": "paused"}, False),
        ({"type": "archive"}, False),
    ],
)
def test_silent_sources_are_flagged(more: dict[str, object], silent: bool) -> None:
    """A running source that took nothing in for a minute is silent; a new one, and what is no source, is not."""
    (record,) = agent_records(None, host(agents=[agent(**more)]))
    assert record.silent is silent


def test_a_source_that_never_took_anything_in_waits() -> None:
    """It is not called silent: nobody may have sent anything to it yet."""
    (record,) = agent_records(None, host(agents=[agent()]))
    assert (record.waiting, record.silent) == (True, False)
    (record,) = agent_records(None, host(agents=[agent(last_ns=NOW_NS)]))
    assert not record.waiting


def test_edges_that_nothing_reached_are_told_from_those_in_use() -> None:
    """An edge counts as used once something came, was lost, or does not balance; names are for people."""
    assert not is_used(Ledger("a > b"))
    assert is_used(Ledger("a > b", offered=1, out=1))
    assert is_used(Ledger("a > b", out=1))
    assert edge_text("* > archive.0") == "other hosts > archive"
    assert edge_text("vm > archive") == "vm > archive"


def test_what_a_source_made_shows_that_it_is_not_silent() -> None:
    """The census of the host counts as a sign of life of the source."""
    seen = TypeSeen(agent="in", stage="raw", event_class="system", type="syslog", last_ns=NOW_NS - SECOND_NS)
    (record,) = agent_records(None, host(agents=[agent()], types=[seen]))
    assert not record.silent
    assert record.last_event.endswith("Z")


def test_an_audit_says_whether_all_balance() -> None:
    """The sentence counts the edges that do not balance and all that was lost."""
    good = Ledger("a > b", offered=10, out=7, filtered=1, dropped={"gap": 2})
    wrong = Ledger("b > c", offered=10, out=7)
    assert balance_text([good]) == "1 edge: every edge balances; 2 events dropped, 0 failed, 0 queued"
    assert "1 of them do not balance" in balance_text([good, wrong])
    assert edge_record("hub", wrong)["difference"] == 3
    assert edge_record("hub", wrong)["balanced"] is False


def test_flows_of_several_hosts_are_one_line() -> None:
    """Identical flows add up over their producers; the busiest comes first."""
    hosts = [
        HostStatus(
            host=name, subscriptions=[FlowStatus(id="1", statement="SELECT *", owners=[name], events=5, bytes=7)]
        )
        for name in ("a", "b")
    ]
    busier = FlowStatus(id="2", statement="SELECT host", owners=["tool"], events=50)
    flows = subscribed({}, [*hosts, HostStatus(host="c", subscriptions=[busier])])
    assert [flow.id for flow in flows] == ["2", "1"]
    assert (flows[1].events, flows[1].bytes, flows[1].owners, flows[1].hosts) == (10, 14, ["a", "b"], ["a", "b"])


def flow_status(**more: object) -> FlowStatus:
    """A flow that moved 1 of 100 events."""
    told: dict[str, object] = {"id": "1", "statement": "SELECT host", "owners": ["tool"], "events": 100, "bytes": 700}
    return FlowStatus(**{**told, "offered": 10_000, "offered_bytes": 70_000, **more})  # type: ignore[arg-type]


def test_a_flow_shows_its_rate_what_it_saved_and_what_it_lost() -> None:
    """Rate and savings come from the counters of each producer, losses and policy from its edge."""
    edge = Ledger("hub > flow 1", offered=10_000, out=90, filtered=9_900, dropped={"disconnected": 10}, policy="drop")
    other = Ledger("hub > flow 2", dropped={"disconnected": 99})
    before = {"hub": host(NOW_NS - 2 * SECOND_NS, subscriptions=[flow_status(events=60)])}
    (flow,) = subscribed(before, [host(subscriptions=[flow_status()], edges=[edge, other])])
    assert (flow.rate, flow.saved_bytes, flow.lost, flow.policy) == (20, 69_300, {"disconnected": 10}, "drop")
    shown = [cell.text for cell in flow_cells(flow)]
    assert shown[:7] == ["20", "100", "10,000", "700 B", "69.3 kB (99.0%)", "10 disconnected", "drop"]


def test_subscriptions_are_json_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal each flow is one JSON object, with nothing asked for."""
    now = host(subscriptions=[flow_status()])
    monkeypatch.setattr(accounts, "with_mesh", lambda settings, work: ({}, [now]))
    written = CliRunner().invoke(accounts.subscriptions).stdout
    told = msgspec.json.decode(written)
    assert (told["id"], told["owners"], told["bytes"], told["saved_bytes"]) == ("1", ["tool"], 700, 69_300)


def test_savings_that_a_producer_does_not_tell_are_not_made_up() -> None:
    """A host process of an older version has no estimate: the flow shows none; a form larger than it saved nothing."""
    (untold,) = subscribed({}, [host(subscriptions=[flow_status(offered_bytes=0)])])
    assert untold.saved_bytes is None
    assert flow_cells(untold)[4].text == "?"
    (larger,) = subscribed({}, [host(subscriptions=[flow_status(offered_bytes=600)])])
    assert larger.saved_bytes == 0


def test_a_flow_that_is_new_has_no_rate() -> None:
    """What was carried before the first look is not a rate."""
    (flow,) = subscribed({"hub": host(NOW_NS - SECOND_NS)}, [host(subscriptions=[flow_status()])])
    assert flow.rate == 0


def test_types_come_from_the_hosts_where_no_directory_answers() -> None:
    """The census has a rate for each kind, and leaves out what the statement can not select."""
    flow = TypeSeen(agent="cook", stage="cooked", event_class="network", type="netflow.v9", count=10)
    more = TypeSeen(agent="cook", stage="cooked", event_class="network", type="netflow.v9", count=30)
    other = TypeSeen(agent="cook", stage="cooked", event_class="system", type="syslog", count=30)
    before = {"hub": host(NOW_NS - 2 * SECOND_NS, types=[flow])}
    (record,) = census(before, [host(types=[more, other])], "SELECT * FROM network.netflow")
    assert (record.type, record.count, record.rate) == ("netflow.v9", 30, 10)


def test_fields_are_found_by_name_and_meaning() -> None:
    """Fields whose name has the word come before those whose meaning has it."""
    names = [field.name for field in found_fields("hypothesis")]
    assert names[0] == "diagnosis.hypothesis"
    assert "source.ip" in [field.name for field in found_fields("")]
    assert not found_fields("no such thing at all")


# --- control -------------------------------------------------------------------------------------------------------


def test_commands_are_known_by_name() -> None:
    """Every lifecycle command is one for an agent; a host process knows fewer; a misspelt one gets the nearest."""
    assert [checked_verb(verb, "archive") for verb in Command] == list(Command)
    assert checked_verb("DRAIN", "") is Command.DRAIN
    with pytest.raises(UsageError, match="did you mean pause"):
        checked_verb("puase", "archive")
    with pytest.raises(UsageError, match="not a command for a host process"):
        checked_verb("pause", "")


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        (("hbu", ""), "did you mean hub"),
        (("hub", "archiv"), "did you mean archive"),
        (("archive", ""), "did you mean hub/archive"),
        (("elsewhere", ""), "there are hub"),
    ],
)
def test_a_wrong_target_is_answered_with_the_nearest(target: tuple[str, str], hint: str) -> None:
    """Misspelt hosts and agents, and an agent without its host, are each told what was meant."""
    hosts = [host(agents=[agent(agent="archive")])]
    with pytest.raises(UsageError, match=hint):
        check_target(hosts, *target)
    check_target(hosts, "hub", "archive")
    check_target(hosts, "hub", "")


def test_settings_are_taken_as_toml_json_or_file(tmp_path: Path) -> None:
    """The three forms of --config say the same."""
    file = tmp_path / "new.toml"
    file.write_text("port = 514\n")
    assert settings_of("port = 514") == settings_of('{"port": 514}') == settings_of(f"@{file}") == {"port": 514}


@pytest.mark.parametrize(
    ("text", "kind"), [("port =", ConfigError), ("{port", UsageError), ("@/no/such/file", UsageError)]
)
def test_settings_that_can_not_be_read_are_refused(text: str, kind: type[Exception]) -> None:
    """The refusal says which text or file it was."""
    with pytest.raises(kind):
        settings_of(text)
