"""Effects: what a change of an agent's settings does to it where it runs. Pure.

What may live here: one table, by which a plan tells what a change costs and a host process carries it out.
"""

from __future__ import annotations

from typing import Literal, get_args

from eddy_mesh.config import AgentConfig

Effect = Literal["morph", "replace", "reload", "resubscribe", "adjust", "edges"]

EFFECTS: dict[str, Effect] = {
    "type": "morph",
    "source": "morph",
    "cooking": "morph",
    "detector": "morph",
    "subscribe": "resubscribe",
    "scope": "resubscribe",
    "backplane": "replace",
    "overload": "resubscribe",
    "spool_bytes": "resubscribe",
    "config": "reload",
    "emit": "reload",
    "mailbox_events": "adjust",
    "in_edges": "edges",
    "out_edges": "edges",
}
"""What a change of each setting in `AgentConfig` does to an agent that runs.

``morph``: it becomes another one. ``replace``: it ends, and a new one begins. ``reload``: a new instance begins where
the old one was, and what waits for it stays. ``resubscribe``: it goes on, with new subscriptions of its own; with a
spool it is replaced; where edges of a topology feed it, these take the setting up. ``adjust``: it goes on. ``edges``:
only edges change; the first and the last that ends at an agent ``resubscribe`` it, as edges stand in for its
subscriptions.
"""


def differing(old: AgentConfig, new: AgentConfig) -> tuple[str, ...]:
    """Return the settings in which two tables of an agent differ, edges left aside."""
    keys = (key for key in EFFECTS if EFFECTS[key] != "edges")
    return tuple(key for key in keys if getattr(old, key) != getattr(new, key))


def effect_of(old: AgentConfig, new: AgentConfig) -> Effect:
    """Return what becomes of an agent that runs, as `EFFECTS` has it; ``edges`` where nothing else differs."""
    effects = {EFFECTS[key] for key in differing(old, new)}
    if bool(old.in_edges) != bool(new.in_edges):
        effects.add("resubscribe")
    elif new.in_edges and "resubscribe" in effects:
        effects = effects - {"resubscribe"} | {"adjust"}
    if "resubscribe" in effects and "spool" in {old.overload, new.overload}:
        effects.add("replace")
    return next((one for one in get_args(Effect) if one in effects), "edges")
