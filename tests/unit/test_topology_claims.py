"""Claims: a change is taken over when nobody has written for long enough, by the clock of whoever looks."""

from __future__ import annotations

import pytest

from eddy_mesh.errors import UsageError
from eddy_mesh.topology import claims, transitions
from eddy_mesh.topology.placement import Placement
from eddy_mesh.topology.record import Change, Record, RecordState, Source

WRITTEN = 7


def begun() -> Record:
    """Return a change that begins, by a clock on the wall that is years ahead."""
    change = Change(placement=Placement(revision=1), source=Source())
    return transitions.begin(None, change, who="ada", why="", manager="hub/m", now_ns=2 * 10**18)


def test_a_claim_that_nobody_renews_is_over() -> None:
    """After five seconds of the clock of whoever looks, whatever it shows; a renewal begins them anew."""
    watch = claims.Watch()
    assert not watch.rests((WRITTEN, 0), 1e6), "it was not seen before"
    assert not watch.rests((WRITTEN, 0), 1e6 + 4.9)
    assert not watch.rests((WRITTEN, 1), 1e6 + 5), "it was renewed"
    assert not watch.rests((WRITTEN, 1), 1e6 + 9.9)
    assert watch.rests((WRITTEN, 1), 1e6 + 10)
    assert not watch.rests((WRITTEN + 1, 1), 1e6 + 11), "another one was faster"
    assert claims.is_over(begun(), "b/m", rests=True)
    assert not claims.is_over(begun(), "b/m", rests=False)


def test_a_manager_that_started_again_need_not_wait() -> None:
    """Its own claim is from before; where nothing is under way there is nothing to take over."""
    assert claims.is_over(begun(), "hub/m", rests=False)
    done = transitions.finish(begun(), manager="hub/m", now_ns=0)
    assert not claims.is_over(done, "hub/m", rests=True)


def test_whoever_lost_the_claim_is_refused() -> None:
    """It may neither renew nor finish what another manager carries out."""
    taken = claims.taken_over(begun(), "b/m")
    with pytest.raises(UsageError, match="carried out by b/m, not by hub/m"):
        claims.renewal(taken, "hub/m")
    with pytest.raises(UsageError, match="carried out by b/m, not by hub/m"):
        transitions.finish(taken, manager="hub/m", now_ns=0)
    done = transitions.finish(taken, manager="b/m", now_ns=0)
    assert done.state is RecordState.APPLIED
    with pytest.raises(UsageError, match="nothing is under way"):
        claims.renewal(done, "b/m")
