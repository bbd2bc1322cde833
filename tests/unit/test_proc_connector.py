"""The kernel's process events: what each message says, and what is refused."""

from __future__ import annotations

from struct import pack

import pytest

from eddy_agents.wire.proc_connector import GROUP, What, decode, encode_subscription
from eddy_mesh.errors import WireError


def message(what: int, details: bytes, *, cpu: int = 1, sequence: int = 7, index: int = GROUP) -> bytes:
    """One netlink message as the kernel writes it: the details padded to the 24 bytes of the union."""
    event = pack("=IIQ", what, cpu, 5_000) + details.ljust(24, b"\0")
    body = pack("=IIIIHH", index, 1, sequence, 0, len(event), 0) + event
    return pack("=IHHII", 16 + len(body), 3, 0, 0, 0) + body


def test_a_fork_names_parent_and_child() -> None:
    """A fork says who the parent's process is, and the new thread and its process."""
    (event,) = decode(message(What.FORK, pack("=IIII", 11, 10, 20, 20)))
    assert (event.what, event.parent_pid, event.thread_id, event.pid) == (What.FORK, 10, 20, 20)
    assert (event.cpu, event.sequence, event.monotonic_ns) == (1, 7, 5_000)
    assert event.is_of_process


def test_a_new_thread_is_no_process() -> None:
    """A fork whose thread is not the first of its process is told apart."""
    (event,) = decode(message(What.FORK, pack("=IIII", 10, 10, 21, 10)))
    assert not event.is_of_process


def test_an_exit_has_its_wait_status() -> None:
    """The status of an exit comes as wait(2) gives it."""
    (event,) = decode(message(What.EXIT, pack("=IIIIII", 20, 20, 0x0200, 17, 10, 10)))
    assert (event.what, event.pid, event.value) == (What.EXIT, 20, 0x0200)


def test_changes_of_user_and_name() -> None:
    """A change of user has the real and the effective id, a change of name the text before the first zero."""
    user, name = decode(
        message(What.USER, pack("=IIII", 20, 20, 1000, 0)) + message(What.NAME, pack("=II16s", 20, 20, b"ngi\0x"))
    )
    assert (user.real_id, user.value) == (1000, 0)
    assert name.name == "ngi"


def test_answer_and_unknown_events() -> None:
    """An answer has its error number and no processor; a kind that is not told has none of these."""
    answer, other = decode(message(What.ACKNOWLEDGED, pack("=I", 1), cpu=0xFFFF_FFFF) + message(0x100, b""))
    assert (answer.what, answer.value, answer.cpu) == (What.ACKNOWLEDGED, 1, -1)
    assert other.what is None


def test_a_message_that_is_cut_is_refused() -> None:
    """A message cut at any byte is a wire error; nothing at all is no message."""
    whole = message(What.EXEC, pack("=II", 20, 20))
    assert decode(b"") == []
    for length in range(1, len(whole)):
        with pytest.raises(WireError):
            decode(whole[:length])


def test_another_connector_is_refused() -> None:
    """A message of another connector than that of processes is a wire error."""
    with pytest.raises(WireError, match="connector 9/1"):
        decode(message(What.EXEC, b"", index=9))


def test_subscriptions_are_those_of_the_kernel() -> None:
    """Both requests have the size and the operation that the kernel expects."""
    on, off = encode_subscription(listen=True), encode_subscription(listen=False)
    assert len(on) == len(off) == 40
    assert (on[-4:], off[-4:]) == (pack("=I", 1), pack("=I", 2))
    assert on[16:24] == pack("=II", 1, 1)
