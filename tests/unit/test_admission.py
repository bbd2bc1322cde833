"""Who may connect to a listener: its own limit, the limit of one peer, and what the operator is told."""

from __future__ import annotations

import pytest

from eddy_mesh.admission import FULL, FULL_FOR_PEER, Admission, Complaints, Limits, peer_group


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:aaaa::1", "2001:db8:0:1::/64"),
        ("fe80::1", "fe80::1"),
        ("::1", "::1"),
        (None, ""),
    ],
)
def test_an_ipv6_host_is_one_peer_with_all_its_addresses(address: str | None, group: str) -> None:
    """A /64 is one peer, since a host takes any address of it; link-local neighbours, which share one, are not."""
    assert peer_group(address) == group


def test_one_peer_can_not_fill_a_listener() -> None:
    """A peer at its limit is turned away while others come in; the listener's limit holds for all together."""
    admission = Admission(Limits(1, max_connections=3, max_connections_per_peer=2))
    assert [admission.admit("a") for _ in range(3)] == ["", "", FULL_FOR_PEER]
    assert [admission.admit("b"), admission.admit("b")] == ["", FULL]
    admission.leave("a")
    assert [admission.admit("a"), admission.admit("b")] == ["", FULL]


def test_unix_peers_share_only_the_listener_s_limit() -> None:
    """Programs on a unix socket can not be told apart, so none is turned away for what the others opened."""
    admission = Admission(Limits(1, max_connections=3, max_connections_per_peer=1))
    assert [admission.admit("") for _ in range(4)] == ["", "", "", FULL]


def test_peers_that_left_are_forgotten() -> None:
    """The counts of peers that are gone take no memory: addresses come from outside, any number of them."""
    admission = Admission(Limits(1))
    for number in range(100):
        admission.admit(str(number))
        admission.leave(str(number))
    assert not admission._of_group


def test_many_complaints_are_one_of_each_kind() -> None:
    """What happened again is counted with the fields of its first time; what was told is not told again."""
    complaints = Complaints()
    for address in ("192.0.2.1", "192.0.2.2"):
        complaints.add("full", "refused", **{"source.ip": address})
    complaints.add("idle", "closed")
    assert complaints.take() == {"full": {"refused": 2, "source.ip": "192.0.2.1"}, "idle": {"closed": 1}}
    assert complaints.take() == {}


def test_many_connections_share_what_is_read_at_a_time() -> None:
    """The first read as much as they like; the more are open, the less a new one does, down to a sixteenth."""
    admission = Admission(Limits(1600, together_bytes=4000))
    shares = []
    for _ in range(100):
        admission.admit("")
        shares.append(admission.share())
    assert shares[:4] == [1600, 1600, 1333, 1000]
    assert shares[-1] == 100
