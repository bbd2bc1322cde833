"""Bytes on disk for each archived flow of a real exporter (softflowd on a network under scan and flood)."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import nfcapd
from flows import capture_file
from load import replayed
from measurement import Goal, Measurement, Peer
from rig import BenchError
from stored import AT_ONCE, START_S, cooked, numberings

from eddy_agents.transformers.netflow import Config, Cooking
from eddy_mesh.store.archive_store import ArchiveStore, StoreConfig

GOAL = Goal(40, 20, more_is_better=False)
PEER_RATE = 20_000


async def run(_: float) -> AsyncIterator[Measurement]:
    """Archive each flow of the capture once and look at the files.

    Raises:
        BenchError: there is no corpus.
    """
    capture = capture_file()
    if capture is None:
        raise BenchError("no corpus here: name its folder in EDDY_CORPUS")
    payloads, counts = replayed(capture)
    now_ns = START_S * 10**9
    with tempfile.TemporaryDirectory(prefix="eddy-bench-") as name:
        with closing(ArchiveStore(Path(name) / "store", StoreConfig(), now_ns)) as store:
            cooking, numbering = Cooking(Config()), numberings()
            for at in range(0, len(payloads), AT_ONCE):
                some = [bytes(payload) for payload in payloads[at : at + AT_ONCE]]
                store.append(list(cooked(some, cooking, numbering, now_ns)))
            store.seal(now_ns, force=True)
            rows, size = store.rows, store.bytes
        peers: list[Peer] = []
        if nfcapd.is_installed():
            seconds = sum(counts) / PEER_RATE
            told = await nfcapd.collect(Path(name) / "nfcapd", PEER_RATE, seconds, str(capture))
            peers = [Peer(nfcapd.NAME, told.size / max(told.stored, 1), "-y, LZ4")]
    defects = [] if rows >= sum(counts) else [f"the archive holds {rows:,} of {sum(counts):,} flows"]
    notes = [f"{rows:,} events, each with every field of its record, its id and the id of its datagram"]
    yield Measurement("bytes a flow", size / rows, "bytes", GOAL, peers, notes, defects)
