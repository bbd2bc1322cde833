"""How long a source lets input gather before it reads again."""

from __future__ import annotations

import asyncio

import pytest

from eddy_mesh.listening import FEW, GATHER_S, LONG_GATHER_S, Pace


class _Clock:
    """Stands for the loop and its clock; remembers how long was slept."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def time(self) -> float:
        """Time of the loop, s."""
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        """Sleep."""
        self.slept.append(delay_s)
        self.now_s += delay_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """The clock of `eddy_mesh.listening`."""
    held = _Clock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: held)
    monkeypatch.setattr(asyncio, "sleep", held.sleep)
    return held


def _after(clock: _Clock, reads: list[tuple[float, int, bool]]) -> list[float]:
    """What was slept after reads: time since the one before (s), events, whether it was full."""
    pace = Pace()
    for since_s, events, full in reads:
        clock.now_s += since_s
        waiting = pace.wait(events, full=full)
        with pytest.raises(StopIteration):
            waiting.send(None)
    return clock.slept


@pytest.mark.parametrize(
    ("reads", "slept"),
    [
        ([(1.0, 1, False), (1.0, 1, False)], []),
        ([(1.0, FEW, False), (0.0, FEW, False), (0.0, FEW, False)], [GATHER_S, GATHER_S]),
        ([(1.0, 1, False), (0.0, 1, False), (0.0, FEW - 1, False)], [LONG_GATHER_S, LONG_GATHER_S]),
        ([(1.0, FEW, False), (0.0, 1, False), (0.0, FEW, False)], [LONG_GATHER_S]),
        ([(1.0, FEW, True), (0.0, FEW, True)], [0, 0]),
    ],
    ids=["quiet", "busy", "few at a time", "a busy moment is over", "more than a read holds"],
)
def test_input_gathers_while_it_comes(clock: _Clock, reads: list[tuple[float, int, bool]], slept: list[float]) -> None:
    """Nothing waits when it is quiet; few events share a wake for longer than many; a full read is not waited after."""
    assert _after(clock, reads) == slept
