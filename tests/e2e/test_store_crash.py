"""The store under kill -9 and on a full disk: real processes, real files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Bytes, Column, Constant, Numbers
from eddy_mesh.errors import StoreError
from eddy_mesh.selection.parse import compile_statement
from eddy_mesh.store.archive_store import ArchiveStore, StoreConfig

pytestmark = pytest.mark.e2e

STAMP_MS = 1_790_000_000_000
KINDS = [Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9"), Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")]
ROWS = 50

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1])))
from test_store_crash import batch_of
from eddy_mesh.store.archive_store import ArchiveStore, StoreConfig
store = ArchiveStore(Path(sys.argv[2]), StoreConfig(threads=1, max_rows=500, compact_rows=2000, max_age_s=0.05), 0)
number = int(sys.argv[3])
while True:
    store.append([batch_of(number)])
    store.sync()
    print(number, flush=True)
    number += 1
    store.seal(number * 10_000_000)
    if number % 50 == 0:
        store.compact(2**62)
"""


def batch_of(number: int, payload: int = 0) -> Batch:
    """Batch ``number``: its events' offsets are the run from ``number * ROWS`` on."""
    stamp_ms = STAMP_MS + number
    columns: dict[str, Column] = {
        "occurred": Constant(stamp_ms * 1_000_000, ROWS),
        "log.offset": Numbers(np.arange(number * ROWS, (number + 1) * ROWS)),
    }
    if payload:
        noise = random.Random(number).randbytes(payload * ROWS)
        columns["event.original"] = Bytes(np.arange(ROWS + 1, dtype=np.uint32) * np.uint32(payload), noise)
    return Batch(KINDS[number % 2], "host-1", Producer(7, 100), number * ROWS, stamp_ms, ROWS, columns)


def _offsets(folder: Path) -> list[int]:
    """Every event that the store has, by its offset; the store is opened as after a crash."""
    with closing(ArchiveStore(folder, StoreConfig(threads=1), 0)) as store:
        rows = list(store.query(compile_statement("SELECT log.offset FROM *", now_ns=0)))
        assert store.damaged == 0
        assert store.rows == len(rows)
    return sorted(int(str(row["log.offset"])) for row in rows)


def _write_until_killed(folder: Path, first: int, lines: int) -> int:
    """Run a writer, kill it somewhere after so many acknowledgements, return the last batch that it acknowledged."""
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(folder), str(first)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    return acknowledged[-1]


def test_kill_9_loses_no_acknowledged_event(tmp_path: Path) -> None:
    """However often a writer is killed, every acknowledged event is there exactly once, and no event is there twice."""
    chance = random.Random()
    first, acknowledged = 0, set[int]()
    for _ in range(6):
        last = _write_until_killed(tmp_path, first, chance.randrange(1, 150))
        acknowledged |= set(range(first * ROWS, (last + 1) * ROWS))
        stored = _offsets(tmp_path)
        assert len(stored) == len(set(stored)), "an event is there twice"
        assert acknowledged <= set(stored), "an acknowledged event is lost"
        first = last + 2  # the batch after the last acknowledged one may be there or not


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for 4 MiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root: run this test as root on Linux")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.mark.parametrize("seal", [False, True], ids=["journal is full", "no room to seal"])
def test_a_full_disk_loses_no_acknowledged_event(small_disk: Path, seal: bool) -> None:
    """On a full disk the store says so, names the place and the free bytes, and goes on when there is room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20 if seal else 3 << 20))
    folder = small_disk / "store"
    taken, refused = 0, None
    with closing(ArchiveStore(folder, StoreConfig(threads=1), 0)) as store:
        while refused is None:
            try:
                store.append([batch_of(taken, payload=1000)])
                store.sync()
                taken += 1
                if seal and taken == 40:  # 2 MB are in the journal; as many do not fit beside them
                    store.seal(0, force=True)
            except StoreError as error:
                refused = error
        assert refused.retryable
        assert str(folder) in str(refused)
        assert "bytes are free" in str(refused)
        assert _count(store) == taken * ROWS
        ballast.unlink()
        store.append([batch_of(taken, payload=1000)])
        store.sync()
        assert _count(store) == (taken + 1) * ROWS
    assert _offsets(folder) == list(range((taken + 1) * ROWS))


def _count(store: ArchiveStore) -> object:
    (row,) = store.query(compile_statement("SELECT count(*) AS n FROM *", now_ns=0))
    return row["n"]
