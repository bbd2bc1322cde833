"""Load: real input, sent at a steady rate by a process of its own.

Run as ``python tools/benchmarks/load.py flows|lines PORT RATE SECONDS``; prints one JSON object with what was sent.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time

FLOWS_PER_DATAGRAM = 28
FIELDS = ((8, 4), (12, 4), (15, 4), (10, 4), (14, 4), (2, 4), (1, 4), (22, 4), (21, 4), (7, 2), (11, 2), (6, 1), (4, 1), (5, 1))
"""IANA elements of the template that softflowd and Cisco routers send for IPv4, with their lengths."""

RECORD = struct.Struct(">IIIIIIIIIHHBBB")
VARIANTS = 512


def template(sequence: int, now_s: int) -> bytes:
    """Return a NetFlow v9 datagram with the template."""
    body = struct.pack(">HH", 300, len(FIELDS)) + b"".join(struct.pack(">HH", *field) for field in FIELDS)
    return _header(1, sequence, now_s) + struct.pack(">HH", 0, len(body) + 4) + body


def _header(count: int, sequence: int, now_s: int) -> bytes:
    return struct.pack(">HHIIII", 9, count, 3_600_000, now_s, sequence, 7)


def datagrams(now_s: int) -> list[bytearray]:
    """Return data datagrams of web, DNS, mail and login flows between many hosts; their sequence number is at 12."""
    state = 12345
    made = []
    for _ in range(VARIANTS):
        records = []
        for _ in range(FLOWS_PER_DATAGRAM):
            state = (state * 1103515245 + 12345) & 0x7FFFFFFF
            port = (443, 443, 443, 80, 53, 53, 22, 25, 993, 123)[state % 10]
            protocol = 17 if port in {53, 123} else 6
            packets = 1 + (state >> 7) % (3 if protocol == 17 else 60)
            start = 3_500_000 + (state >> 3) % 90_000
            source = 0x0A000000 | (state >> 5) % 40_000
            destination = 0xC0000200 | (state >> 11) % 3_000
            records.append(
                RECORD.pack(
                    source, destination, 0x0A0A0A01, 3, 5, packets, packets * (60 + (state >> 9) % 1200), start,
                    start + (state >> 4) % 9_000, 32768 + (state >> 2) % 28_000, port, 0x1B if protocol == 6 else 0, protocol, 0,
                )
            )  # fmt: skip
        body = b"".join(records)
        padding = -len(body) % 4
        flowset = struct.pack(">HH", 300, len(body) + 4 + padding) + body + bytes(padding)
        made.append(bytearray(_header(FLOWS_PER_DATAGRAM, 0, now_s) + flowset))
    return made


def send_flows(port: int, rate: float, seconds: float) -> dict[str, float]:
    """Send flows at ``rate`` flows/s for ``seconds`` and return what was sent."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(("127.0.0.1", port))
    now_s = int(time.time())
    payloads = datagrams(now_s)
    sender.send(template(0, now_s))
    per_second = rate / FLOWS_PER_DATAGRAM
    sent = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        due = int(elapsed * per_second) - sent
        if due <= 0:
            time.sleep(0.0005)
            continue
        for _ in range(min(due, 256)):
            payload = payloads[sent % VARIANTS]
            struct.pack_into(">I", payload, 12, sent + 1)
            sender.send(payload)
            sent += 1
        if sent % 20_000 < 256:
            sender.send(template(sent, now_s))
    return {"events": sent * FLOWS_PER_DATAGRAM, "seconds": time.perf_counter() - began}


def lines(count: int) -> list[bytes]:
    """Return RFC 3164 lines as a Linux host writes them: sshd, sudo, cron, kernel and a daemon."""
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
        + texts[i % len(texts)].format(n=1000 + i % 9000, b=i % 250, p=1024 + i % 60000).encode()
        + b"\n"
        for i in range(count)
    ]


def send_lines(port: int, rate: float, seconds: float) -> dict[str, float]:
    """Send syslog lines over TCP at ``rate`` lines/s and return what was sent."""
    sender = socket.create_connection(("127.0.0.1", port))
    chunk = lines(2000)
    joined = b"".join(chunk)
    sent = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        if int(elapsed * rate) - sent < len(chunk):
            time.sleep(0.0005)
            continue
        sender.sendall(joined)
        sent += len(chunk)
    sender.close()
    return {"events": sent, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    _, what, where, how_fast, how_long = sys.argv
    send = {"flows": send_flows, "lines": send_lines}[what]
    print(json.dumps(send(int(where), float(how_fast), float(how_long))))
