"""Laws of what a receiver remembers: it never takes a message for handled that was not."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from eddy_mesh.runtime.durable import received
from eddy_mesh.runtime.durable.received import Received


@given(st.lists(st.integers(1, 60)))
def test_it_is_a_set(sequences: list[int]) -> None:
    """What was entered is there, nothing else, also after it was written and read."""
    held = Received()
    for sequence in sequences:
        held.add(sequence, sequence)
    with TemporaryDirectory() as folder:
        path = Path(folder, "x.received")
        held.save(path)
        again = Received.load(path)
    wanted = set(sequences)
    assert {n for n in range(1, 62) if held.has(n, 0)} == wanted
    assert {n for n in range(1, 62) if again.has(n, 0)} == wanted


@given(st.permutations(range(1, 40)))
def test_neighbours_become_one_run(sequences: list[int]) -> None:
    """A consumer that gets everything needs room for one run, in whatever order it was handled."""
    held = Received()
    for sequence in sequences:
        held.add(sequence, 0)
    assert (held._starts, held._ends) == ([1], [39])


def test_it_is_bounded_and_forgets_the_oldest() -> None:
    """It never grows without end, and what it forgets is not taken for handled."""
    held = Received()
    for number in range(received.MAX_RUNS + 10):
        held.add(2 * number + 1, number)
    assert len(held._starts) == received.MAX_RUNS
    assert not held.has(1, 0)
    assert held.has(2 * (received.MAX_RUNS + 9) + 1, 0)


def test_a_new_life_of_the_stream_is_known_by_the_time() -> None:
    """The same number on a younger message is another message: the stream was made anew."""
    held = Received()
    held.suspect = 7
    for sequence in (1, 2, 3):
        held.add(sequence, 100 + sequence)
    assert held.has(2, 102)
    assert not held.has(2, 104)
    assert not held.has(3, 103)
    assert held.suspect == 0


def test_a_damaged_or_missing_file_is_an_empty_memory(tmp_path: Path) -> None:
    """It costs a repeat at worst; the receiver starts."""
    path = tmp_path / "x.received"
    assert not Received.load(path).is_open
    path.write_bytes(b'{"is_open": tr')
    assert not Received.load(path).is_open
