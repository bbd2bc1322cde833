"""What the end of a child process means."""

from __future__ import annotations

import signal

from eddy_mesh.commands import State
from eddy_mesh.runtime.child_end import NO_SERVER, REFUSED, Budget, End, Record, after_end, read_line

BUDGET = Budget((0.5, 1.0, 30.0), crashes=3, window_s=120.0)
S = 1_000_000_000


def test_crashes_are_waited_out_longer_and_longer_until_the_budget_is_used_up() -> None:
    """Each crash within the window waits longer; one more than the budget and the child stays failed, and says so."""
    record, waits = Record(), []
    for number in range(4):
        verdict = after_end(End(-signal.SIGKILL, "out of memory"), record, BUDGET, number * S)
        record = verdict.record
        waits.append(verdict.wait_s)
        assert verdict.state is State.FAILED
        assert verdict.reason.startswith("ended by SIGKILL: out of memory")
    assert waits == [0.5, 1.0, 30.0, None]
    assert verdict.reason.endswith("(crashed 4 times in 120 s)")


def test_crashes_long_ago_are_forgotten() -> None:
    """A child that crashes now and then is always started again, as soon as after the first crash."""
    record = Record()
    for number in range(10):
        verdict = after_end(End(1), record, BUDGET, number * 121 * S)
        assert (verdict.wait_s, verdict.reason) == (0.5, "ended with status 1")
        record = verdict.record


def test_a_server_that_is_away_uses_nothing_up() -> None:
    """A child that finds no server tries for ever, with the longest wait in the end; its crashes are counted apart."""
    record = Record(crashes=(0,))
    waits = []
    for _ in range(50):
        verdict = after_end(End(NO_SERVER, "no server"), record, BUDGET, S)
        record = verdict.record
        waits.append(verdict.wait_s)
    assert waits[:4] == [0.5, 1.0, 30.0, 30.0]
    assert set(waits[4:]) == {30.0}
    assert record.crashes == (0,)


def test_a_refused_configuration_is_not_tried_again() -> None:
    """The same configuration has the same mistakes."""
    verdict = after_end(End(REFUSED, "agents.x: type: unknown"), Record(), BUDGET, 0)
    assert (verdict.state, verdict.wait_s) == (State.FAILED, None)
    assert "agents.x" in verdict.reason


def test_an_orderly_end_is_respected() -> None:
    """Who stops a child by a command or signal does not see it come back by itself."""
    verdict = after_end(End(0, "last words"), Record(), BUDGET, 0)
    assert (verdict.state, verdict.wait_s) == (State.STOPPED, None)
    assert verdict.reason


def test_a_signal_without_a_name_has_its_number() -> None:
    """No end makes the supervision itself fail."""
    assert after_end(End(-4000), Record(), BUDGET, 0).reason == "ended by signal 4000"


def test_last_words_are_what_explains_an_end() -> None:
    """What a child logs as a matter of course is no reason; warnings, errors and what is no log are, in plain words."""
    lines = {
        '{"level": "info", "event": "agent state", "reason": "x"}': "",
        '{"level": "warning", "event": "bus error", "reason": "gone", "agent": "a"}': "bus error: gone",
        '{"level": "error", "event": "notices are full"}': "notices are full",
        '{"event": "unmarked"}': "unmarked",
        '{"level": "error", "event": "agent crashed", "exception": "Traceback\\n  x\\nOSError: y\\n"}': (
            "agent crashed: OSError: y"
        ),
        "Killed": "Killed",
        "x" * 1000: "x" * 500,
        "[1]": "[1]",
        '{"level": 3}': "",
    }
    assert {line: read_line(line).words for line in lines} == lines
