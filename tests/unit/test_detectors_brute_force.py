"""Guessing of passwords: attempts, windows, distributed guessing, and the login that succeeds."""

from __future__ import annotations

from collections.abc import Sequence

from eddy_agents.analyses.brute_force import Config, Detector
from eddy_mesh.agent import Draft, Result
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.rows import batch_of, flat_rows

S = 1_000_000_000
T0 = 1_700_000_000 * S
NOW_NS = T0 + 10**6 * S
Row = dict[str, Value]


def _login(second: float, outcome: str = "failure", **more: Value) -> Row:
    row: Row = {
        "occurred": T0 + int(second * S),
        "host": "gate",
        "event.category": "authentication",
        "event.action": "ssh_login",
        "event.outcome": outcome,
        "source.ip": "192.0.2.66",
        "user.name": "root",
    }
    return row | {name.replace("__", "."): value for name, value in more.items()}


def _feed(detector: Detector, rows: Sequence[Row], first: int = 0) -> list[Row]:
    batch = batch_of(Kind(Stage.COOKED, EventClass.SYSTEM, "syslog"), "h", Producer(1, 1), first, 1, rows)
    return _rows(detector.on_batch(batch, NOW_NS))


def _rows(result: Result) -> list[Row]:
    rows: list[Row] = []
    for draft in result.outputs:
        assert isinstance(draft, Draft)
        rows += flat_rows(Batch(draft.kind, "h", Producer(2, 1), 0, 1, draft.count, draft.columns))
    return rows


def test_guessing_is_told_when_found_and_when_over() -> None:
    """Five failures within a minute are guessing; the last event names them all."""
    detector = Detector(Config())
    assert not _feed(detector, [_login(n) for n in range(4)])
    (start,) = _feed(detector, [_login(4)], 4)
    assert not _feed(detector, [_login(n) for n in range(5, 10)], 5)
    (end,) = _rows(detector.on_tick(NOW_NS + 61 * S))
    assert (start["event.type"], end["event.type"]) == ("start", "end")
    assert start["event.id"] == end["event.id"]
    assert (end["diagnosis.count"], end["level"], end["user.name"], end["host"]) == (10, 4, "root", "gate")
    evidence = end["diagnosis.evidence"]
    assert isinstance(evidence, list)
    assert len(set(evidence)) == 10
    assert "10 failed logins from 192.0.2.66 as root, within 9.0 s" in str(end["diagnosis.hypothesis"])


def test_several_lines_of_one_attempt_count_once() -> None:
    """Three lines about each of four attempts are not five attempts; all lines are evidence once there are."""
    detector = Detector(Config())
    actions = ("ssh_invalid_user", "ssh_login", "ssh_disconnect")
    lines = [_login(n + k / 10, event__action=a, user__name=f"u{n}") for n in range(5) for k, a in enumerate(actions)]
    assert not _feed(detector, lines[:12])
    (row,) = _feed(detector, lines[12:], 12)
    assert row["diagnosis.count"] == 15
    assert "5 failed logins" in str(row["diagnosis.hypothesis"])
    assert "user.name" not in row


def test_a_person_who_mistypes_is_silent() -> None:
    """A success clears the failures of its user from its source, and of no other."""
    detector = Detector(Config())
    rows = [*[_login(n) for n in range(4)], _login(4, "success"), *[_login(n) for n in range(5, 9)]]
    assert not _feed(detector, rows)
    others = [_login(n, user__name=f"u{n}") for n in range(4)]
    assert _feed(Detector(Config()), [*others, _login(4, "success"), _login(5, user__name="u9")])


def test_a_success_after_guessing_is_critical() -> None:
    """The login that succeeds is told at once, with the user, and is evidence."""
    rows = [_login(n, user__name=f"u{n}") for n in range(6)]
    detector = Detector(Config())
    start, change = _feed(detector, [*rows, _login(6, "success", user__name="u3")])
    assert (start["level"], start["event.outcome"]) == (4, "failure")
    assert (change["level"], change["event.outcome"], change["user.name"]) == (2, "success", "u3")
    assert change["diagnosis.count"] == 7
    assert "then a login from 192.0.2.66 as u3 succeeded" in str(change["diagnosis.hypothesis"])
    assert not _feed(detector, [_login(7, "success", source__ip="192.0.2.7", user__name="u3")], 7)


def test_slow_and_distributed_guessing() -> None:
    """Twenty failures in an hour, and ten for one user from four sources, are found; less is not."""
    (slow,) = _feed(Detector(Config()), [_login(n * 100) for n in range(20)])
    assert slow["event.action"] == "password_guessing"
    assert not _feed(Detector(Config()), [_login(n * 1000) for n in range(60)])
    spread = [_login(n * 70, source__ip=f"192.0.2.{n % 4}") for n in range(10)]
    (row,) = _feed(Detector(Config()), spread)
    assert (row["event.action"], row["user.name"]) == ("distributed_password_guessing", "root")
    assert "source.ip" not in row
    assert not _feed(Detector(Config()), [_login(n * 70, source__ip=f"192.0.2.{n % 3}") for n in range(10)])


def test_what_names_no_source_is_ignored() -> None:
    """Local failures and other categories are no guessing, nor are connections that end before a user is named."""
    bare = [_login(n) for n in range(50)]
    for name in ("source.ip", "event.category", "event.outcome"):
        assert not _feed(Detector(Config()), [{k: v for k, v in row.items() if k != name} for row in bare])
    assert not _feed(Detector(Config()), [row | {"event.category": "session"} for row in bare])
    assert not _feed(Detector(Config()), [_login(n, user__name=None, event__type="end") for n in range(50)])


def test_failures_without_a_user_count_for_their_source() -> None:
    """A log that names the source only is enough; lines without a user beside named ones are the same attempts."""
    (row,) = _feed(Detector(Config()), [_login(n, user__name=None) for n in range(5)])
    assert row["event.action"] == "password_guessing"
    assert "user.name" not in row
    assert "as users that are not named" in str(row["diagnosis.hypothesis"])
    both = [_login(n, user__name=name) for n in range(4) for name in (f"u{n}", None)]
    assert not _feed(Detector(Config()), both)


def test_a_line_about_repetition_counts_as_often_as_it_says() -> None:
    """One failure and a line that says twenty more are twenty-one attempts in two events."""
    (row,) = _feed(Detector(Config()), [_login(0), _login(30, syslog__repeated=20)])
    assert "21 failed logins" in str(row["diagnosis.hypothesis"])
    assert row["diagnosis.count"] == 2
    assert not _feed(Detector(Config()), [_login(0), _login(30, syslog__repeated=3)])


def test_keys_that_a_client_offers_are_no_guesses() -> None:
    """An agent with many keys offers them in turn before one is accepted: nothing is told."""
    offers = [_login(n / 10, ssh__method="publickey", source__port=50_000) for n in range(8)]
    asked = [_login(n / 10, ssh__method="none", source__port=50_000) for n in range(8)]
    accepted = _login(2, "success", ssh__method="publickey", source__port=50_000)
    assert not _feed(Detector(Config()), [*asked, *offers, accepted])
    assert _feed(Detector(Config()), [row | {"ssh.method": "password"} for row in offers])


def test_a_success_over_the_connection_that_failed_is_no_alarm() -> None:
    """Who fails and succeeds over one connection mistyped; a success over the last of several is critical."""
    one = [_login(n, source__port=50_000) for n in range(6)]
    rows = _feed(Detector(Config()), [*one, _login(7, "success", source__port=50_000)])
    assert [row["level"] for row in rows] == [4]
    several = [_login(n, source__port=50_000 + n // 3) for n in range(6)]
    rows = _feed(Detector(Config()), [*several, _login(7, "success", source__port=50_001)])
    assert [row["level"] for row in rows][-1] == 2


def test_a_host_whose_clock_is_behind_is_watched_too() -> None:
    """Guessing told by a host two hours behind is found and goes on, however new the events of others are."""
    detector = Detector(Config())
    found: list[Row] = []
    for n in range(0, 10, 2):
        found += _feed(
            detector, [_login(7200 + n, user__name="x", source__ip="192.0.2.7", event__outcome="success")], n
        )
        found += _feed(detector, [_login(n), _login(n + 1)], 100 + n)
    assert [row["event.type"] for row in found] == ["start"]
    (end,) = _rows(detector.on_tick(NOW_NS + 61 * S))
    assert end["diagnosis.count"] == 10


def test_a_source_known_by_name_only() -> None:
    """Where a log has a host name instead of an address, the diagnosis has it too."""
    (row,) = _feed(Detector(Config()), [_login(n, source__ip=None, source__address="evil.example") for n in range(5)])
    assert row["source.address"] == "evil.example"
    assert "source.ip" not in row


def test_old_failures_in_one_batch_are_not_mixed_with_new_ones() -> None:
    """A log read at once is judged by its own times, also where its peak is not at the end."""
    rows = [*[_login(n) for n in range(5)], *[_login(3000 + n * 200) for n in range(3)]]
    (row,) = [r for r in _feed(Detector(Config()), rows) if r["event.type"] == "start"]
    assert row["diagnosis.start"] == T0


def test_memory_is_bounded() -> None:
    """Beyond its limits the detector forgets the oldest and says so; a long name is cut."""
    detector = Detector(Config(max_keys=20, max_evidence=8))
    (start,) = _feed(detector, [_login(n / 10, user__name="x" * 10_000) for n in range(30)])
    assert (start["diagnosis.count"], len(str(start["user.name"]))) == (30, 256)
    evidence = start["diagnosis.evidence"]
    assert isinstance(evidence, list)
    assert len(evidence) == 8
    ended = _feed(detector, [_login(4, source__ip=f"10.0.0.{n}", user__name=f"n{n}") for n in range(50)], 30)
    assert [row["event.type"] for row in ended] == ["end"]
    (notice,) = [row for row in _rows(detector.on_tick(NOW_NS)) if row["type"] == "mesh.notice"]
    assert notice["edge.count"] == 82
