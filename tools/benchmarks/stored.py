"""Filter and top-N over ten million archived flows, and what each flow takes on disk."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import nfcapd
import numpy as np
from load import FLOWS_PER_DATAGRAM, VARIANTS, datagrams, stamp, template
from measurement import Goal, Measurement, Peer

from eddy_agents.transformers.netflow import Config, Cooking
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.agent import Draft
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Addresses, Bytes, Column, pack
from eddy_mesh.selection import compile_statement
from eddy_mesh.store.archive_store import ArchiveStore, StoreConfig

GOAL = Goal(1.0, 0.2, more_is_better=False)
FLOWS = int(os.environ.get("EDDY_BENCH_FLOWS", "10_000_000"))
AT_ONCE = 256
START_S = 1_790_000_000 // 3600 * 3600
FLOWS_A_SECOND = 20_000
"""So many are exported each second: the store then spans some eight minutes."""
EXPORTER = 0x7F000001
REPEATS = 5
NFCAPD_RATE = 300_000
STATEMENT = (
    "SELECT source.ip, sum(network.bytes) AS octets FROM network.netflow.v9 WHERE destination.port = 22"
    " GROUP BY source.ip ORDER BY octets DESC LIMIT 10"
)
RAW = Kind(Stage.RAW, EventClass.NETWORK, "netflow")


def cooked(payloads: list[bytes], cooking: Cooking, numbering: dict[str, Numbering], now_ns: int) -> Iterator[Batch]:
    """Yield the cooked events of some datagrams, as the host process makes them."""
    exporter = Addresses(np.full(len(payloads), EXPORTER, ">u4"))
    columns: dict[str, Column] = {"event.original": Bytes(*pack(payloads)), "host_address": exporter}
    raw = numbering["in"].number(Draft(RAW, len(payloads), columns), now_ns)
    for output in cooking.on_batch(raw, now_ns).outputs:
        yield numbering["cook"].number(output, now_ns) if isinstance(output, Draft) else output


def numberings() -> dict[str, Numbering]:
    """Return what numbers the events of a normalizer and of a transformer."""
    return {name: Numbering(f"eddy/bench/{name}", "bench", START_S) for name in ("in", "cook")}


async def run(_: float) -> AsyncIterator[Measurement]:
    """Build the store, ask, and ask nfdump the same of the same flows."""
    with tempfile.TemporaryDirectory(prefix="eddy-bench-") as name:
        folder = Path(name)
        with closing(ArchiveStore(folder / "store", StoreConfig(), START_S * 10**9)) as store:
            took_s = _fill(store)
            notes = [
                f"{store.rows:,} flows, cooked and stored by one thread in {took_s:.1f} s",
                f"{store.rows / took_s:,.0f} flows/s, {store.bytes / store.rows:.1f} bytes a flow (synthetic)",
                f"median of {REPEATS}: {STATEMENT}",
            ]
            plan = compile_statement(STATEMENT, now_ns=START_S * 10**9)
            value = _median(lambda: list(store.query(plan)))
            defects = [] if len(list(store.query(plan))) == 10 else ["the answer has not ten rows"]
        shutil.rmtree(folder / "store")
        peers = [await _nfdump(folder / "nfcapd")] if nfcapd.is_installed() else []
    yield Measurement("stored", value, "s", GOAL, peers, notes, defects)


def _fill(store: ArchiveStore) -> float:
    """Return the seconds that cooking and storing took, without those in which the datagrams were made."""
    took_s = 0.0
    cooking, numbering = Cooking(Config()), numberings()
    sequence = 0
    for seed in range(-(-FLOWS // (VARIANTS * FLOWS_PER_DATAGRAM))):
        payloads = [bytearray(template()), *datagrams(VARIANTS, seed)]
        began = time.perf_counter()
        for at in range(0, len(payloads), AT_ONCE):
            some = payloads[at : at + AT_ONCE]
            now_s = START_S + sequence * FLOWS_PER_DATAGRAM // FLOWS_A_SECOND
            for payload in some:
                stamp(payload, now_s, sequence)
                sequence += 1
            store.append(list(cooked([bytes(payload) for payload in some], cooking, numbering, now_s * 10**9)))
        store.seal(now_s * 10**9)
        took_s += time.perf_counter() - began
    began = time.perf_counter()
    store.seal(now_s * 10**9, force=True)
    return took_s + time.perf_counter() - began


def _median(question: Callable[[], object]) -> float:
    """Return how long a question takes, s."""
    spent = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        question()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


async def _nfdump(folder: Path) -> Peer:
    collected = await nfcapd.collect(folder, NFCAPD_RATE, FLOWS / NFCAPD_RATE)
    command = ["nfdump", "-R", str(folder), "-q", "-n", "10", "-s", "srcip/bytes", "dst port 22"]
    value = _median(lambda: subprocess.run(command, check=True, capture_output=True))
    size = collected.size / max(collected.stored, 1)
    return Peer("nfdump", value, f"{collected.stored:,} flows, {size:.1f} bytes a flow (nfcapd -y, LZ4)")
