"""Following live events: what is said beside them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from eddy_mesh.bus import BusState, StateListener
from eddy_mesh.cli.events import follow

if TYPE_CHECKING:
    from eddy_mesh.api import Mesh
    from eddy_mesh.cli.event_output import EventWriter


async def test_an_outage_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Silence for want of a server is told apart from silence for want of events; at the end nobody listens on."""
    listeners: list[StateListener] = []

    def on_state(listener: StateListener) -> Callable[[], None]:
        listeners.append(listener)
        return listeners.clear

    async def tap(_statement: str, **_: object) -> AsyncGenerator[str, None]:
        (listener,) = listeners
        for state in (BusState.DISCONNECTED, BusState.ERROR, BusState.CONNECTED):
            listener(state, f"it is {state.value}")
        yield "event"

    mesh = SimpleNamespace(
        bus=SimpleNamespace(on_state=on_state), tap=tap, ledger=SimpleNamespace(lost=0), is_sure=True
    )
    shown: list[str] = []
    writer = SimpleNamespace(write=shown.append, flush=lambda: None)
    await follow(cast("Mesh", mesh), "SELECT *", cast("EventWriter", writer))
    away, back, end = capsys.readouterr().err.splitlines()
    assert away == "eddy: it is disconnected; what happens meanwhile is not shown"
    assert back == "eddy: it is connected"
    assert end.startswith("eddy: 1 event in ")
    assert (shown, listeners) == (["event"], [])
