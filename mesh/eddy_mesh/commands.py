"""Lifecycle: the states of an agent, the commands that it is given, and the table of what a command does in a state.

What may live here: everything that affects a transition, and the types of agents that give commands, but nothing that
knows who carries one out. A command is like a UNIX signal: it travels on its own lane and is answered even when the
mailbox is full.
"""

from __future__ import annotations

from enum import StrEnum

from eddy_mesh.errors import UsageError

AGENT_MANAGER, BACKPLANE_MANAGER = "agent_manager", "backplane_manager"
MANAGERS = frozenset({AGENT_MANAGER, BACKPLANE_MANAGER})
"""Types of the agents that change which other agents there are."""
SENDER = "sender"
"""Type of the agents that come and go with durable edges."""
DEFAULT_MANAGER = "agent-manager"
"""Name of a host's agent-manager where none was told."""


class State(StrEnum):
    """Where an agent is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Command(StrEnum):
    """What a manager can tell an agent."""

    PING = "ping"
    INFO = "info"
    STATS = "stats"
    PAUSE = "pause"
    RESUME = "resume"
    RELOAD = "reload"
    DRAIN = "drain"
    STOP = "stop"


class Happening(StrEnum):
    """What changes the state of an agent without a command.

    It has ``started``; nothing is left for it to take in (``drained``); it has ``crashed``, or can not work as it is
    configured; its back-off is over and it is ``restarted``.
    """

    STARTED = "started"
    DRAINED = "drained"
    CRASHED = "crashed"
    RESTARTED = "restarted"


ASKING = frozenset({Command.PING, Command.INFO, Command.STATS})
"""Commands that are answered in every state and change none."""

TRANSITIONS: dict[tuple[State, Command | Happening], State] = {
    (State.STARTING, Happening.STARTED): State.RUNNING,
    (State.STARTING, Happening.CRASHED): State.FAILED,
    (State.STARTING, Command.PAUSE): State.STARTING,  # and paused as soon as it has started
    (State.STARTING, Command.RESUME): State.STARTING,
    (State.STARTING, Command.RELOAD): State.STARTING,
    (State.STARTING, Command.DRAIN): State.DRAINING,
    (State.STARTING, Command.STOP): State.STOPPED,
    (State.RUNNING, Command.PAUSE): State.PAUSED,
    (State.RUNNING, Command.RESUME): State.RUNNING,
    (State.RUNNING, Command.RELOAD): State.RUNNING,
    (State.RUNNING, Command.DRAIN): State.DRAINING,
    (State.RUNNING, Command.STOP): State.STOPPED,
    (State.RUNNING, Happening.DRAINED): State.STOPPED,
    (State.RUNNING, Happening.CRASHED): State.FAILED,
    (State.PAUSED, Command.PAUSE): State.PAUSED,
    (State.PAUSED, Command.RESUME): State.RUNNING,
    (State.PAUSED, Command.RELOAD): State.PAUSED,
    (State.PAUSED, Command.DRAIN): State.DRAINING,
    (State.PAUSED, Command.STOP): State.STOPPED,
    (State.PAUSED, Happening.DRAINED): State.STOPPED,
    (State.PAUSED, Happening.CRASHED): State.FAILED,
    (State.DRAINING, Command.DRAIN): State.DRAINING,
    (State.DRAINING, Command.STOP): State.STOPPED,
    (State.DRAINING, Happening.DRAINED): State.STOPPED,
    (State.DRAINING, Happening.CRASHED): State.FAILED,
    (State.STOPPED, Command.STOP): State.STOPPED,
    (State.STOPPED, Command.RESUME): State.STARTING,
    (State.FAILED, Command.STOP): State.STOPPED,
    (State.FAILED, Command.RESUME): State.STARTING,
    (State.FAILED, Command.RELOAD): State.STARTING,
    (State.FAILED, Happening.RESTARTED): State.STARTING,
}


def after(state: State, cause: Command | Happening) -> State:
    """Return the state that follows.

    Args:
        state: where the agent is.
        cause: the command or happening; one of `ASKING` changes nothing.

    Raises:
        UsageError: the command makes no sense in that state; the text names those that do.
    """
    if cause in ASKING:
        return state
    following = TRANSITIONS.get((state, cause))
    if following is None:
        allowed = sorted(command for (held, command) in TRANSITIONS if held is state and isinstance(command, Command))
        raise UsageError(f"{cause} is not possible while {state}: possible are {', '.join(allowed)}")
    return following


def command_of(verb: str) -> Command:
    """Return the command of that name.

    Raises:
        UsageError: there is none; the text names those that there are.
    """
    try:
        return Command(verb)
    except ValueError:
        raise UsageError(f"{verb!r} is not a command: use one of {', '.join(Command)}") from None
