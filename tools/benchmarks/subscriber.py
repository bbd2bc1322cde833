"""A live subscriber, in a process of its own.

Run as ``python subscriber.py URL TOKEN STATEMENT``; prints ``on`` when it is subscribed. When its standard input ends
it prints one JSON object: events, dropped by reason, processor seconds, and the latency of every event whose message
ends in ``t=<ns since 1970>``, as percentiles in ms.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time

import numpy as np
import uvloop

from eddy_mesh.batch import Batch
from eddy_mesh.bus import ConnectOptions
from eddy_mesh.bus_nats import connect
from eddy_mesh.conservation import Ledger
from eddy_mesh.receiving import FlowReceiver
from eddy_mesh.selection import compile_statement

SKIP_NS = 1_000_000_000
"""The first second, in which caches fill and code is loaded, does not count."""


async def main(url: str, token: str, statement: str) -> None:
    """Subscribe, count until standard input ends, report."""
    bus = await connect(url, name="subscriber", options=ConnectOptions(token=token))
    arrived: list[tuple[int, Batch]] = []
    is_stamped = "message" in statement
    events = 0

    def deliver(batch: Batch) -> None:
        nonlocal events
        events += batch.count
        if is_stamped:
            arrived.append((time.time_ns(), batch))

    ledger = Ledger("subscriber")
    receiver = FlowReceiver(bus, "eddy", compile_statement(statement, now_ns=time.time_ns()), "bench", deliver, ledger)
    await receiver.start()
    gc.disable()  # what is kept for the percentiles would be walked again and again
    began_cpu_s = time.process_time()
    print("on", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await receiver.stop()
    told: dict[str, object] = {"events": events, "dropped": ledger.dropped, "cpu_s": time.process_time() - began_cpu_s}
    print(json.dumps(told | percentiles(arrived)), flush=True)
    await bus.close()


def percentiles(arrived: list[tuple[int, Batch]]) -> dict[str, float]:
    """Return the latency of stamped events, in ms."""
    late: list[int] = []
    begin_ns = arrived[0][0] + SKIP_NS if arrived else 0
    for at_ns, batch in arrived:
        if at_ns < begin_ns:
            continue
        column = batch.column("message")
        texts = (str(column.at(row)) for row in range(batch.count))
        late += [at_ns - int(text.rpartition("t=")[2]) for text in texts if "t=" in text]
    if not late:
        return {}
    p50, p99, worst = np.percentile(late, (50, 99, 100)) / 1e6
    return {"p50_ms": p50, "p99_ms": p99, "worst_ms": worst}


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:4]))
