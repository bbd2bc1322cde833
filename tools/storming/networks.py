"""Networks: a network namespace for each host process, joined by a bridge; or the loopback interface where none can be.

What may live here: making and removing them. Who runs in them is in `processes`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


class NoNetwork(Exception):
    """Network namespaces can not be made here; the text says why."""


@dataclass(frozen=True)
class Place:
    """Where a host process and its NATS server run.

    Attributes:
        name: of the host process.
        address: IPv4 address there.
        namespace: network namespace, or "" for none.
    """

    name: str
    address: str
    namespace: str = ""

    def command(self, *program: str) -> tuple[str, ...]:
        """Return a command line that runs a program in this place."""
        return ("ip", "netns", "exec", self.namespace, *program) if self.namespace else program

    def port(self, wanted: int) -> int:
        """Return a TCP port for a listener: the wanted one in a namespace of its own, a free one else."""
        if self.namespace:
            return wanted
        with socket.socket() as probe:
            probe.bind((self.address, 0))
            return int(probe.getsockname()[1])


@contextmanager
def network(names: Sequence[str], *, loopback: bool = False) -> Iterator[tuple[dict[str, Place], str]]:
    """Make a place for each host process; they are removed at the end.

    Args:
        names: of the host processes.
        loopback: make no namespaces.

    Yields:
        The places by name, and a sentence that says what they are.
    """
    try:
        places = _namespaces(names, wanted=not loopback)
    except NoNetwork as why:
        yield {name: Place(name, LOOPBACK) for name in names}, f"loopback interface, no namespaces ({why})"
        return
    try:
        yield places, f"{len(names)} network namespaces, joined by a bridge"
    finally:
        _remove(names)


def _namespaces(names: Sequence[str], *, wanted: bool) -> dict[str, Place]:
    if not wanted:
        raise NoNetwork("none were wanted")
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise NoNetwork("they need root and iproute2")
    pid = os.getpid()
    net, bridge = f"10.231.{pid % 250}", f"es{pid}"
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{net}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        places = {}
        for number, name in enumerate(names):
            space, cable = _space(name), f"es{pid}v{number}"
            _ip("netns", "add", space)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", cable, "master", bridge, "up")
            _ip("-n", space, "addr", "add", f"{net}.{number + 1}/24", "dev", "eth0")
            for interface in ("eth0", "lo"):
                _ip("-n", space, "link", "set", interface, "up")
            places[name] = Place(name, f"{net}.{number + 1}", space)
    except NoNetwork:
        _remove(names)
        raise
    return places


def _space(name: str) -> str:
    return f"storm-{os.getpid()}-{name}"


def _remove(names: Sequence[str]) -> None:
    for words in (*(("netns", "del", _space(name)) for name in names), ("link", "del", f"es{os.getpid()}")):
        subprocess.run(("ip", *words), check=False, capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(("ip", *words), check=False, capture_output=True, text=True)
    if done.returncode:
        raise NoNetwork(f"ip {' '.join(words)}: {done.stderr.strip()}")
