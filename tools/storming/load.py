"""Load: numbered events, one JSON object a line, over TCP at a steady rate by a process of its own.

Run as ``python load.py ADDRESS PORT RATE SECONDS FIRST STEP``; the numbers are FIRST, FIRST + STEP ... Prints one JSON
object: how many were sent, and in how long. A receiver that does not keep up slows it down; nothing is left out.
"""

from __future__ import annotations

import json
import socket
import sys
import time

AT_ONCE = 2000
PAUSE_S = 0.05


def send(address: str, port: int, rate: float, seconds: float, first: int, step: int) -> dict[str, float]:
    """Send ``rate`` events/s for ``seconds`` and return what was sent."""
    with socket.create_connection((address, port), 10.0) as sender:
        sender.settimeout(None)
        wanted, sent = int(rate * seconds), 0
        began = time.monotonic()
        while sent < wanted:
            due = min(int((time.monotonic() - began) * rate) - sent, AT_ONCE, wanted - sent)
            if due <= 0:
                time.sleep(PAUSE_S)
                continue
            numbers = range(first + sent * step, first + (sent + due) * step, step)
            sender.sendall(b"".join(b'{"event":{"sequence":%d}}\n' % number for number in numbers))
            sent += due
        took = time.monotonic() - began
    return {"sent": sent, "seconds": took}


if __name__ == "__main__":
    _, where, *how = sys.argv
    print(json.dumps(send(where, int(how[0]), float(how[1]), float(how[2]), int(how[3]), int(how[4]))))
