"""A tap of an agent: whom its name means, and that it goes with the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from eddy_mesh import watching
from eddy_mesh.errors import BusError, UsageError
from eddy_mesh.flows import ALL, Of
from eddy_mesh.watching import MOST_MISSES, Follower, Status, Watch, look, unknown_agent, watch_of

TURNS = 50


def status(host: str, *agents: str) -> Status:
    """What a host process says of itself, as far as a watch looks at it."""
    return {"host": host, "agents": [{"agent": agent, "type": "application"} for agent in agents]}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("cook", {"a/cook", "b/cook.0", "b/cook.12", "c.cook.1/cook.1"}),
        ("b/cook", {"b/cook.0", "b/cook.12"}),
        ("c/cook", {"c.cook.1/cook.1"}),
        ("cook.0", {"b/cook.0"}),
        ("b/cook.0", {"b/cook.0"}),
        ("c.cook.1/cook.1", {"c.cook.1/cook.1"}),
        ("cook-netflow", {"a/cook-netflow"}),
        ("coo", set()),
        ("d/cook", set()),
    ],
)
def test_a_name_of_the_manifest_means_all_instances(name: str, meant: set[str]) -> None:
    """AGENT.0, AGENT.1 ... belong to AGENT wherever they run; one of them, or those of a host, can be named too."""
    hosts = [
        status("a", "cook", "cook-netflow", "cook.raw"),
        status("b", "cook.0", "cook.12"),
        status("c.cook.1", "cook.1"),
        {"host": "d"},
    ]
    assert Watch(name, "out").found(hosts) == meant


def test_what_is_no_watch_is_refused() -> None:
    """It says what to write; an unknown agent is answered with one that is similar."""
    assert watch_of("b/cook:in") == Watch("b/cook", "in")
    for text in ("cook", "cook:both", ":in"):
        with pytest.raises(UsageError, match="watch AGENT:in or AGENT:out"):
            watch_of(text)
    assert "did you mean cook?" in str(unknown_agent(Watch("cok", "in"), [status("a", "cook")]))


def test_an_agent_is_gone_when_it_was_missed_several_times() -> None:
    """A host process that is too busy to answer once changes nothing; what comes is there at once."""
    change = look({"a/cook": 0}, [])
    assert not change.came
    assert not change.went
    change = look(change.misses, ["a/cook"])
    assert change.misses == {"a/cook": 0}
    for _ in range(MOST_MISSES):
        change = look(change.misses, ["b/cook"])
    assert change.went == {"a/cook"}
    assert change.misses == {"b/cook": 0}
    assert str(look({"a/cook": MOST_MISSES - 1}, ["b/cook"])).endswith("b/cook came; a/cook went; now tapping b/cook")
    assert str(look({"a/cook": MOST_MISSES - 1}, [])).endswith("now tapping nothing: waiting until it is back")


class Asked:
    """A receiver that notes what becomes of it."""

    def __init__(self, of: Of, standing: list[Of]) -> None:
        self.of = of
        self._standing = standing

    async def start(self) -> None:
        """Ask."""
        self._standing.append(self.of)

    async def end(self) -> None:
        """Stop asking."""
        self._standing.remove(self.of)


class Backplane:
    """Host processes whose agents move; every look finds what they are then, the last stays.

    Attributes:
        looks: statuses, or None where the server is away.
        standing: what is asked for.
        told: remarks.
    """

    def __init__(self, *looks: Sequence[Status] | None) -> None:
        self.looks = list(looks)
        self.standing: list[Of] = []
        self.told: list[str] = []

    async def look(self) -> Sequence[Status]:
        """Answer one look."""
        found = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        agents = [agent for of in self.standing for agent in of.agents]
        assert len(agents) == len(set(agents)), "an agent that is asked for twice gives each event twice"
        if found is None:
            raise BusError("away")
        return found

    def follower(self, watch: Watch | None) -> Follower[Asked]:
        """A follower of a watch."""
        return Follower(watch, self.look, lambda of: Asked(of, self.standing), Asked.end, self.told.append)

    async def pass_by(self) -> None:
        """Let all looks go by."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert len(self.looks) == 1


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other without a pause."""
    monkeypatch.setattr(watching, "LOOK_S", 0.0)


COOK = Watch("cook", "in")


async def test_a_tap_follows_a_scaled_and_moved_agent() -> None:
    """Instances that come are asked for, those that went are not any more, and each change is said in one line."""
    scaled = [status("a", "cook.0"), status("b", "cook.1")]
    backplane = Backplane([status("a", "cook")], None, *[scaled] * MOST_MISSES, scaled)
    follower = backplane.follower(COOK)
    await follower.start()
    assert backplane.standing == [Of(agents=("a/cook",), side="in")]
    await backplane.pass_by()
    assert backplane.standing == [Of(agents=("a/cook.0", "b/cook.1"), side="in")]
    assert [text.partition(": ")[2] for text in backplane.told] == [
        "a/cook.0, b/cook.1 came; now tapping a/cook, a/cook.0, b/cook.1",
        "a/cook went; now tapping a/cook.0, b/cook.1",
    ]
    await follower.stop()
    assert not backplane.standing


async def test_an_agent_that_is_back_is_asked_for_once() -> None:
    """It is still asked for together with one that stayed: a further receiver would give its events twice."""
    both, one = [status("a", "cook.0", "cook.1")], [status("a", "cook.0")]
    backplane = Backplane(both, *[one] * MOST_MISSES, both, both)
    follower = backplane.follower(COOK)
    await follower.start()
    await backplane.pass_by()
    assert backplane.standing == [Of(agents=("a/cook.0", "a/cook.1"), side="in")]
    assert len(backplane.told) == 2
    await follower.stop()


async def test_an_agent_that_is_not_there_is_an_error_and_a_tap_of_all_looks_at_nobody() -> None:
    """Without a name every host process is asked at once, and nothing has to be followed."""
    backplane = Backplane([status("a", "cook")])
    with pytest.raises(UsageError, match="unknown agent"):
        await backplane.follower(Watch("find", "out")).start()
    backplane = Backplane(None)
    follower = backplane.follower(None)
    await follower.start()
    await backplane.pass_by()
    assert backplane.standing == [ALL]
    await follower.stop()
    assert (backplane.standing, backplane.told) == ([], [])
