"""The local store's laws: an id brings back exactly its event or nothing, and damage costs only what lies behind it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Numbers
from eddy_mesh.config import LocalConfig
from eddy_mesh.rows import flat_rows
from eddy_mesh.store import local_store
from eddy_mesh.store.local_store import LocalStore

KIND = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")
START_MS = 1_795_000_000_000


class Made(NamedTuple):
    """What producers do in turn: who makes a batch, how many numbers a select left out, how many events, and when."""

    producer: int
    epoch: int
    skipped: int
    events: int
    after_ms: int


MADE = st.builds(
    Made, st.integers(1, 3), st.sampled_from([0, 1]), st.integers(0, 3), st.integers(1, 5), st.integers(0, 50)
)
RUNS = st.lists(MADE, min_size=1, max_size=25)
STARTS = st.sampled_from([0, (1 << 32) - 9])
"""Where numbers begin; the second wraps in the 32 bits that ids have."""


def batches(made: list[Made], start: int) -> Iterator[Batch]:
    """The batches of all producers, each numbered on; every event has another value."""
    following: dict[tuple[int, int], int] = {}
    now_ms, value = START_MS, 0
    for each in made:
        now_ms += each.after_ms
        first = following.get(each[:2], start) + each.skipped
        following[each[:2]] = first + each.events
        columns = {"log.offset": Numbers(np.arange(value, value + each.events))}
        value += each.events
        yield Batch(KIND, "edge", Producer(each.producer, each.epoch), first, now_ms, each.events, columns)


def rows_of(made: list[Batch]) -> dict[bytes, object]:
    """Id → the value of each event."""
    return {bytes(row["id"]): row["log.offset"] for batch in made for row in flat_rows(batch)}  # type: ignore[arg-type]


def opened(folder: str, **limits: float) -> LocalStore:
    """The store of a folder at a time after all events."""
    now_ns = (START_MS + 10_000) * 1_000_000
    return LocalStore(Path(folder), LocalConfig(**limits), lambda: now_ns, lambda _: None)  # type: ignore[arg-type]


@given(RUNS, STARTS, st.integers(0, 24))
@settings(max_examples=150)
def test_every_event_comes_back_as_it_was(made: list[Made], start: int, restart: int) -> None:
    """Over gaps, wraps, several producers and a restart, each id gives its own event."""
    all_made = list(batches(made, start))
    with tempfile.TemporaryDirectory() as folder:
        for part in (all_made[:restart], all_made[restart:]):
            with closing(opened(folder)) as store:
                for batch in part:
                    store.keep(batch)
        with closing(opened(folder)) as store:
            found = store.fetch(rows_of(all_made))  # type: ignore[arg-type]  # ids are bytes
            assert rows_of(found.batches) == rows_of(all_made)
            assert found.gone == {}


@given(RUNS, STARTS, st.integers(4_500, 8_000))
@settings(max_examples=100)
def test_every_event_is_held_or_gone(made: list[Made], start: int, max_bytes: int) -> None:
    """A small store stays within its size, has the latest, and says of all others when they went."""
    all_made = list(batches(made, start))
    with (
        patch.object(local_store, "LEAST_SEGMENT_BYTES", 500),
        tempfile.TemporaryDirectory() as folder,
        closing(opened(folder, max_bytes=max_bytes)) as store,
    ):
        for batch in all_made:
            store.keep(batch)
            store.flush()
        assert sum(path.stat().st_size for path in Path(folder).glob("*.kept")) <= max_bytes
        expected = rows_of(all_made)
        found = store.fetch(expected)  # type: ignore[arg-type]
        held = rows_of(found.batches)
        assert held.items() <= expected.items()
        assert expected.keys() - held.keys() <= found.gone.keys()
        assert store.missed == 0
        assert rows_of(all_made[-1:]).items() <= held.items()


@given(RUNS, STARTS, st.data())
@settings(max_examples=150)
def test_damage_costs_only_what_lies_behind_it(made: list[Made], start: int, data: st.DataObject) -> None:
    """A file cut or altered at any octet gives back no event that was not made, and those before that octet."""
    all_made = list(batches(made, start))
    with tempfile.TemporaryDirectory() as folder:
        ends = []
        with closing(opened(folder)) as store:
            for batch in all_made:
                store.keep(batch)
                store.flush()
                ends += [path.stat().st_size for path in Path(folder).glob("*.kept")]
        (path,) = Path(folder).glob("*.kept")
        octets = bytearray(path.read_bytes())
        position = data.draw(st.integers(8, len(octets) - 1))
        if data.draw(st.booleans()):
            del octets[position:]
        else:
            octets[position] ^= data.draw(st.integers(1, 255))
        path.write_bytes(octets)
        whole = [batch for batch, end in zip(all_made, ends, strict=True) if end <= position]
        with closing(opened(folder)) as store:
            held = rows_of(store.fetch(rows_of(all_made)).batches)  # type: ignore[arg-type]
        assert rows_of(whole).items() <= held.items() <= rows_of(all_made).items()
