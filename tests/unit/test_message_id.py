"""Ids of messages on durable edges: the same for the same events, in whatever life of an agent they were made."""

from __future__ import annotations

from collections.abc import Mapping
from unittest.mock import Mock

import numpy as np
import pytest

from eddy_mesh import codec
from eddy_mesh.actor.edge import Mailbox
from eddy_mesh.actor.work import Work
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Column, Constant, Ids, Numbers
from eddy_mesh.runtime.durable.edge import DurableEdge, message_id
from eddy_mesh.runtime.durable.sender import DurableSender

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
STEPS = {"rework.steps": Constant(1, 3)}


def made(
    life: int = 1,
    parent: int = 0,
    origin: str = "h",
    more: Mapping[str, Column] | None = None,
    *,
    kind: Kind = KIND,
) -> Batch:
    """Return what an agent makes in one of its lives of three events."""
    parents = Ids(7 << 32, np.arange(parent, parent + 3, dtype=np.uint64))
    columns: dict[str, Column] = {"parents": parents, "source.port": Numbers(np.arange(3, dtype=np.uint16))}
    return Batch(kind, origin, Producer(6, life), 77 * life, 10**12 + life, 3, {**columns, **(more or {})})


def identity(batch: Batch, agent: str = "carry", partition: int = 0) -> str:
    """Return the id of a message with these events."""
    return message_id(batch, partition, codec.encode(batch), agent)


@pytest.mark.parametrize("more", [{}, STEPS])
def test_another_life_makes_the_same(more: dict[str, Column]) -> None:
    """Numbers, times and host process of whoever made the events do not matter."""
    assert identity(made(1, more=more)) == identity(made(2, origin="other", more=more))


@pytest.mark.parametrize("more", [{}, STEPS])
def test_other_parents_kind_agent_or_partition_are_no_repeat(more: dict[str, Column]) -> None:
    """What stands for other events is stored beside them."""
    other = KIND._replace(type="netflow.v5")
    ids = [
        identity(made(more=more)),
        identity(made(parent=3, more=more)),
        identity(made(more=more, kind=other)),
        identity(made(more=more), agent="pass"),
        identity(made(more=more), partition=1),
        identity(made(more=more).filter(np.array([True, True, False]))),
    ]
    assert len(set(ids)) == len(ids)


def test_other_fields_are_another_event() -> None:
    """Two alerts with the same evidence are two."""
    assert identity(made()) != identity(made(more={"message": Constant("again", 3)}))


def test_what_is_passed_on_is_the_same_with_other_settings() -> None:
    """An agent that is killed and becomes another kind of agent passes the same on; parts of one event are several."""
    split, sample = made(more=STEPS), made(2, more={**STEPS, "sample.probability": Constant(1.0, 3)})
    assert identity(split) == identity(sample)
    parts = [made(more={**STEPS, "rework.index": Constant(number, 3)}) for number in range(3)]
    assert len({identity(one) for one in [split, *parts]}) == 4


@pytest.mark.parametrize(("sender", "agent"), [("carry.in", "carry"), ("carry.2.in", "carry"), ("a.b.in", "a.b")])
def test_instances_of_an_agent_have_one_name(sender: str, agent: str) -> None:
    """What one instance was killed with goes to another one."""
    made_by = DurableSender(DurableEdge(backplane="eddy", name="in"))
    made_by._context = Work(sender, Mock(), Mock(), Mailbox())
    assert made_by._producer == agent


def test_without_parents_the_numbering_decides() -> None:
    """Equal events that nobody made of others are told apart, also where some have no parent."""
    nulls = np.array([False, True, False])
    some = {"parents": Ids(7 << 32, np.arange(3, dtype=np.uint64), nulls)}
    none: dict[str, Column] = {"parents": Constant(None, 3)}
    for more in (some, none):
        assert identity(made(1, more=more)) != identity(made(2, more=more))
