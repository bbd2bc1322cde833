"""Load: real input, sent at a steady rate by a process of its own.

Run as ``python load.py flows|replay|lines|stamped PORT RATE SECONDS [CAPTURE]``; prints one JSON object: events and
datagrams or lines that were sent, seconds, processor seconds.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

FLOWS_PER_DATAGRAM = 28
FIELDS = (
    (8, 4),
    (12, 4),
    (15, 4),
    (10, 4),
    (14, 4),
    (2, 4),
    (1, 4),
    (22, 4),
    (21, 4),
    (7, 2),
    (11, 2),
    (6, 1),
    (4, 1),
    (5, 1),
)
"""IANA elements of the template that softflowd and Cisco routers send for IPv4, with their lengths."""  # fmt: skip
RECORD = np.dtype([(str(element), f">u{length}") for element, length in FIELDS])
SERVICES = np.array([443, 443, 443, 443, 80, 53, 53, 53, 123, 25, 22, 993, 3389, 8080], np.uint16)
UPTIME_MS = 3_600_000
VARIANTS = 8192
"""Different datagrams; after 229,376 flows they come again."""
TEMPLATE_EVERY = 20_000
AT_ONCE = 256
CHUNK_LINES = 2000


# --- NetFlow v9 --------------------------------------------------------------------------------------------------


def template() -> bytes:
    """Return a NetFlow v9 datagram with the template."""
    body = struct.pack(">HH", 300, len(FIELDS)) + b"".join(struct.pack(">HH", *field) for field in FIELDS)
    return _header(1) + struct.pack(">HH", 0, len(body) + 4) + body


def _header(count: int) -> bytes:
    return struct.pack(">HHIIII", 9, count, UPTIME_MS, 0, 0, 7)


def records(count: int, seed: int = 1) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Return flow records as a campus border has them: few busy servers, many clients, most flows short."""
    draw = np.random.default_rng(seed)
    made = np.zeros(count, RECORD)
    port = draw.choice(SERVICES, count)
    is_udp = (port == 53) | (port == 123)
    packets = np.minimum(1 + draw.lognormal(np.where(is_udp, 0.2, 2.3), 1.2), 1e6).astype(np.uint32)
    duration_ms = np.minimum(draw.lognormal(5.5, 2.0, count), 300_000).astype(np.uint32)
    end_ms = UPTIME_MS - draw.integers(0, 15_000, count).astype(np.uint32)
    made["8"] = 0x0A000000 + np.minimum(draw.zipf(1.2, count), 40_000)
    made["12"] = 0xC0000200 + np.minimum(draw.zipf(1.3, count), 3_000)
    made["15"], made["10"], made["14"] = 0x0A0A0A01, draw.integers(1, 4, count), draw.integers(4, 6, count)
    made["2"], made["1"] = packets, packets * draw.integers(60, 1260, count).astype(np.uint32)
    made["22"], made["21"] = end_ms - duration_ms, end_ms
    made["7"], made["11"] = draw.integers(32768, 61000, count), port
    made["6"], made["4"] = np.where(is_udp, 0, 0x1B), np.where(is_udp, 17, 6)
    return made


def datagrams(count: int = VARIANTS, seed: int = 1) -> list[bytearray]:
    """Return data datagrams; `stamp` gives each its time and sequence number."""
    packed = records(count * FLOWS_PER_DATAGRAM, seed).tobytes()
    size = RECORD.itemsize * FLOWS_PER_DATAGRAM
    padding = -size % 4
    head = _header(FLOWS_PER_DATAGRAM) + struct.pack(">HH", 300, size + 4 + padding)
    return [bytearray(head + packed[at : at + size] + bytes(padding)) for at in range(0, count * size, size)]


def stamp(payload: bytearray, now_s: int, sequence: int) -> None:
    """Write export time and sequence number (RFC 3954 section 5.1) into a datagram."""
    struct.pack_into(">II", payload, 8, now_s, sequence & 0xFFFF_FFFF)


def replayed(capture: Path) -> tuple[list[bytearray], list[int]]:
    """Return the export datagrams of a capture and the flows in each, as cooked here."""
    from eddy_agents.wire.pcap import read_pcap  # noqa: PLC0415  # only this needs it
    from eddy_agents.wire.udp_payloads import udp_payloads  # noqa: PLC0415

    payloads = [bytearray(found.payload) for found in udp_payloads(read_pcap(capture.read_bytes()))]
    return payloads, cooked_counts(payloads)


def cooked_counts(payloads: Sequence[bytes | bytearray]) -> list[int]:
    """Return the number of flows that each NetFlow v9 datagram gives, in order."""
    from eddy_agents.transformers.netflow import Config, Cooking  # noqa: PLC0415  # only replays need it
    from eddy_mesh.actor.numbering import Numbering  # noqa: PLC0415
    from eddy_mesh.agent import Draft, draft_of  # noqa: PLC0415
    from eddy_mesh.batch import Kind  # noqa: PLC0415
    from eddy_mesh.cer import EventClass, Stage  # noqa: PLC0415

    cooking, numbering = Cooking(Config()), Numbering("eddy/bench/in", "bench", 0)
    kind = Kind(Stage.RAW, EventClass.NETWORK, "netflow")
    counts: list[int] = []
    for payload in payloads:
        draft = draft_of(kind, [{"event.original": bytes(payload), "host_address": "192.0.2.1"}])
        outputs = cooking.on_batch(numbering.number(draft, 0), 0).outputs
        counts.append(sum(made.count for made in outputs if isinstance(made, Draft) and made.kind.type == "netflow.v9"))
    return counts


def send_flows(port: int, rate: float, seconds: float, capture: str = "") -> dict[str, float]:
    """Send flows at ``rate`` flows/s for ``seconds`` and return what was sent.

    Args:
        port: UDP port on this host.
        rate: flows/s.
        seconds: how long.
        capture: file with export datagrams to send again and again; "" for synthetic flows.
    """
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(("127.0.0.1", port))
    payloads, counts = replayed(Path(capture)) if capture else (datagrams(), [FLOWS_PER_DATAGRAM] * VARIANTS)
    if not capture:
        for row in range(0, VARIANTS, TEMPLATE_EVERY):
            payloads.insert(row, bytearray(template()))
            counts.insert(row, 0)
    per_second = rate * len(counts) / sum(counts)
    sent = 0
    before = time.process_time()
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        due = int(elapsed * per_second) - sent
        if due <= 0:
            time.sleep(0.0005)
            continue
        now_s = int(time.time())
        for number in range(sent, sent + min(due, AT_ONCE)):
            payload = payloads[number % len(payloads)]
            stamp(payload, now_s, number)
            sender.send(payload)
        sent += min(due, AT_ONCE)
    rounds, rest = divmod(sent, len(counts))
    events = rounds * sum(counts) + sum(counts[:rest])
    return _told(events, sent, time.perf_counter() - began, time.process_time() - before)


# --- syslog lines ------------------------------------------------------------------------------------------------


def lines(count: int) -> list[bytes]:
    """Return RFC 3164 lines as a Linux host writes them: sshd, sudo, cron, kernel and daemons."""
    texts = (
        "sshd[{n}]: Failed password for invalid user admin from 203.0.113.{b} port {p} ssh2",
        "sshd[{n}]: Accepted publickey for deploy from 198.51.100.{b} port {p} ssh2",
        "sudo:   deploy : TTY=pts/0 ; PWD=/srv ; USER=root ; COMMAND=/bin/systemctl status nginx",
        "CRON[{n}]: (root) CMD (test -x /usr/sbin/anacron || run-parts /etc/cron.hourly)",
        "kernel: [12{n}.123456] eth0: link becomes ready",
        "nginx[{n}]: upstream timed out (110: connection timed out) while reading response header, client: 10.1.2.{b}",
        "systemd[1]: Started Session {n} of user deploy.",
    )
    return [
        b"<38>Nov 21 10:%02d:%02d web%d " % (i // 60 % 60, i % 60, i % 4)
        + texts[i % len(texts)].format(n=1000 + i % 9000, b=i % 250, p=1024 + i * 7919 % 60000).encode()
        + b"\n"
        for i in range(count)
    ]


def send_lines(port: int, rate: float, seconds: float, _: str = "") -> dict[str, float]:
    """Send syslog lines over TCP, at most ``rate`` lines/s and what the receiver lets in; return what was sent."""
    sender = socket.create_connection(("127.0.0.1", port))
    chunks = [
        b"".join(lines(CHUNK_LINES * 20)[at : at + CHUNK_LINES]) for at in range(0, CHUNK_LINES * 20, CHUNK_LINES)
    ]
    sent = 0
    before = time.process_time()
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        if int(elapsed * rate) - sent < CHUNK_LINES:
            time.sleep(0.0005)
            continue
        sender.sendall(chunks[sent // CHUNK_LINES % len(chunks)])
        sent += CHUNK_LINES
    sender.close()
    return _told(sent, sent, time.perf_counter() - began, time.process_time() - before)


def send_stamped(port: int, rate: float, seconds: float, _: str = "") -> dict[str, float]:
    """Send syslog lines over TCP as they fall due, each with the time at which it was made."""
    sender = socket.create_connection(("127.0.0.1", port))
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sent = 0
    before = time.process_time()
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        due = int(elapsed * rate) - sent
        if due <= 0:
            time.sleep(0.0002)
            continue
        line = f"<38>Nov 21 10:00:00 web1 bench[7]: t={time.time_ns()}\n".encode()
        sender.sendall(line * due)
        sent += due
    sender.close()
    return _told(sent, sent, time.perf_counter() - began, time.process_time() - before)


def _told(events: int, sent: int, seconds: float, cpu_s: float) -> dict[str, float]:
    return {"events": events, "sent": sent, "seconds": seconds, "cpu_s": cpu_s}


SENDERS: dict[str, Callable[[int, float, float, str], dict[str, float]]] = {
    "flows": send_flows,
    "lines": send_lines,
    "stamped": send_stamped,
}

if __name__ == "__main__":
    _, what, where, how_fast, how_long, *capture_file = sys.argv
    print(json.dumps(SENDERS[what](int(where), float(how_fast), float(how_long), "".join(capture_file))))
