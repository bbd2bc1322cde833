"""What scrub finds in free text."""

from __future__ import annotations

import pytest

from eddy_agents.anonymization.scrub import scrub


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from 192.0.2.1 port 22", "from <192.0.2.1> port 22"),
        ("192.0.2.1.22 > 192.0.2.9.80:", "<192.0.2.1>.22 > <192.0.2.9>.80:"),
        ("host 010.000.000.001", "host <10.0.0.1>"),
        ("version 1.2.3 of 999.1.1.1", "version 1.2.3 of 999.1.1.1"),
        ("inet6 addr:2001:db8::1/64", "inet6 addr:<2001:db8::1>/64"),
        ("[2001:DB8::1]:443, ::1: ok", "[<2001:db8::1>]:443, <::1>: ok"),
        ("mapped ::ffff:192.0.2.1 here", "mapped <192.0.2.1> here"),
        ("12:34:56 up 01:02", "12:34:56 up 01:02"),
        ("12:34:56:192.0.2.1", "12:34:56:<192.0.2.1>"),
        ("fe80::1%eth0, [fe80::2%25en0]", "<fe80::1>, [<fe80::2>]"),
        ("12:34:56%10.1.1.1 ::1:%jane", "12:34:56%<10.1.1.1> <::1>:%{jane}"),
        (
            "ip-10-1-1-1.example.org, 10_1_1_1, 10-1_1-1, 900-1-1-1",
            "ip-<10-1-1-1>.example.org, <10_1_1_1>, 10-1_1-1, 900-1-1-1",
        ),
        ("on 2026-11-21-10 at 01-02", "on 2026-11-21-10 at 01-02"),
        ("0x0a010101 0X0A010101 0x0a01 0x0a0101010", "<10.1.1.1> <10.1.1.1> 0x0a01 0x0a0101010"),
        ("1.0.0.0." + "0." * 20 + "8.b.d.0.1.0.0.2.ip6.arpa", "{1.0.0.0." + "0." * 20 + "8.b.d.0.1.0.0.2}.ip6.arpa"),
        ("JANE Jane_x x_jane", "{jane} {jane}_x x_{jane}"),
        ("00:1A:2b:3c:4d:5e and 001a.2b3c.4d5e", "{00:1A:2b:3c:4d:5e} and {001a.2b3c.4d5e}"),
        ("to <jane.doe+x@mail.example.org>.", "to <{jane.doe+x@mail.example.org}>."),
        ("müller@mail.example.org, x", "{müller@mail.example.org}, x"),
        ("root@localhost: jane logged in; janet did not", "{root@localhost}: {jane} logged in; janet did not"),
    ],
)
def test_what_is_found(text: str, expected: str) -> None:
    """Addresses, hardware addresses, mail addresses and known names are replaced, and nothing else."""
    assert scrub(text, ["jane", "x"], lambda a: f"<{a}>", lambda t: f"{{{t}}}") == expected


@pytest.mark.parametrize(
    "unit", ["a", "1.", "a@", "a:", ":", "a.", "ab-", "1.1.1.", "1-", "1_", "::1%a", "%", "0x", "name"]
)
def test_a_long_line_of_one_pattern_ends(unit: str) -> None:
    """Text made to upset a pattern is read in linear time: a quadratic pattern would meet the test's time-out."""
    scrub(unit * 60_000, ["name"], str, str)


def test_odd_names_are_only_text() -> None:
    """A name from an event is never taken for a pattern."""
    assert scrub("user (a+)+ done", ["(a+)+", "b|c["], str, str.upper) == "user (A+)+ done"
