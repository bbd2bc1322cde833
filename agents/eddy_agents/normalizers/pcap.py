"""Takes in capture files: every packet becomes a raw event, and every export in the capture the raw event it was.

Out: ``raw.network.packet``, one captured packet each, as cooked by ``eddy_agents.transformers.packet``; for UDP
datagrams to the ports of ``unwrap_udp_ports`` instead ``raw.network.netflow``, ``raw.network.sflow`` and
``raw.system.syslog`` with the exporter's address as host, as if the exporter had sent them here. IP fragments stay
packets; an export that was fragmented becomes an event of its own as well.

Times are those of the capture. What was taken in is remembered by file and packet, so that a restart goes on there.

Source: see `eddy_agents.wire.pcap`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import numpy as np

from eddy_agents.wire.pcap import Packet, PcapReader
from eddy_agents.wire.udp_payloads import RAW_KINDS, UdpPayloads, drafts_of
from eddy_mesh.agent import Draft, Outlet
from eddy_mesh.batch import Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.checkpoint import CheckpointFile
from eddy_mesh.columns import Bytes, Column, Constant, Numbers, pack
from eddy_mesh.errors import ConfigError, WireError

OUTPUT: Final = Kind(Stage.RAW, EventClass.NETWORK, "packet")

_READ_BYTES: Final = 512 * 1024
_CHECKPOINT_BYTES: Final = 8 * 1024 * 1024
"""Most bytes that are read again after a crash; a checkpoint waits until the agents behind have caught up."""

_EXPORT_PORTS: Final = {"netflow": (2055, 4739, 9991, 9995), "sflow": (6343,), "syslog": (514,)}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the pcap source."""

    paths: tuple[str, ...] = ()
    """Capture files, pcap or pcapng; a name with ``*`` or ``?`` in its last part stands for all files it matches."""

    unwrap_udp_ports: dict[str, tuple[int, ...]] = msgspec.field(default_factory=lambda: dict(_EXPORT_PORTS))
    """Raw type to the UDP destination ports whose datagrams are events of that type; empty to keep all as packets."""

    follow: bool = False
    """Whether to wait at the end of the last file for more packets, as of a running ``tcpdump -U -w``."""

    poll_s: float = 1.0
    """Seconds between two looks at a file that is followed."""


class Progress(msgspec.Struct, frozen=True):
    """How much of one file was taken in.

    Attributes:
        identity: what tells the file from another one of the same name: inode and time of the first packet.
        packets: how many packets were taken.
    """

    identity: str
    packets: int


class Checkpoint(msgspec.Struct, frozen=True):
    """What a restart finds: how much was taken in of each file, by its path."""

    files: dict[str, Progress] = {}


class Source:
    """Reads capture files in order of their names."""

    def __init__(self, config: Config) -> None:
        unknown = sorted(set(config.unwrap_udp_ports) - set(RAW_KINDS))
        if unknown:
            raise ConfigError([f"unwrap_udp_ports: {unknown[0]!r} is no raw type; choose of {', '.join(RAW_KINDS)}"])
        self._config = config
        self._ports = {port: name for name, ports in config.unwrap_udp_ports.items() for port in ports}
        self._progress: dict[str, Progress] = {}

    async def run(self, outlet: Outlet) -> None:
        """Emit the packets of every file; returns after the last one, unless it is followed.

        Raises:
            ConfigError: no file has a configured name.
            OSError: a file can not be read.
        """
        kept = CheckpointFile(outlet, Checkpoint)
        self._progress = dict(kept.found.files) if kept.found else {}
        files = await asyncio.to_thread(_matching, self._config.paths)
        for number, path in enumerate(files):
            capture = _Capture(path, self._ports, self._progress.get(str(path)))
            with await asyncio.to_thread(path.open, "rb") as file:
                capture.inode = (await asyncio.to_thread(path.stat)).st_ino
                await self._read(capture, file, outlet, kept, follow=self._config.follow and number == len(files) - 1)

    async def _read(
        self, capture: _Capture, file: BinaryIO, outlet: Outlet, kept: CheckpointFile[Checkpoint], *, follow: bool
    ) -> None:
        try:
            while await self._take(capture, file, outlet) or follow:
                await self._checkpoint(capture, kept)
                await asyncio.sleep(self._config.poll_s if follow else 0)
            capture.reader.close()
        except WireError as damage:
            outlet.lost("damaged_capture", 1)
            outlet.notice("capture_damaged", **{"log.file.path": str(capture.path), "error.message": str(damage)})
        await self._checkpoint(capture, kept)
        capture.datagrams.close()
        for reason, count in capture.datagrams.lost.items():
            outlet.lost(reason, count)

    async def _take(self, capture: _Capture, file: BinaryIO, outlet: Outlet) -> bool:
        """Take in the next piece of a file; returns whether there was anything."""
        size = 0
        while size < _CHECKPOINT_BYTES and (data := await asyncio.to_thread(file.read, _READ_BYTES)):
            size += len(data)
            for draft in capture.drafts(data):
                await outlet.emit(draft)
            capture.emitted = capture.progress
        return size > 0

    async def _checkpoint(self, capture: _Capture, kept: CheckpointFile[Checkpoint]) -> None:
        if capture.is_ahead:
            self._progress[str(capture.path)] = capture.emitted
            await kept.keep(Checkpoint(dict(self._progress)))


class _Capture:
    """One file on its way in: pure, the bytes come as arguments."""

    def __init__(self, path: Path, ports: dict[int, str], earlier: Progress | None) -> None:
        self.path = path
        self.reader = PcapReader()
        self.datagrams = UdpPayloads(ports)
        self.inode = 0
        self.progress = Progress("", 0)
        self.emitted = self.progress
        self._ports = ports
        self._earlier = earlier

    @property
    def is_ahead(self) -> bool:
        """Whether more was taken in than in the earlier run, or another file of the same name."""
        earlier = self._earlier
        return earlier is None or earlier.identity != self.emitted.identity or earlier.packets < self.emitted.packets

    def drafts(self, data: bytes) -> list[Draft]:
        """Return the events of the packets that ``data`` completes and that were not taken in an earlier run."""
        packets = self.reader.feed(data)
        if not packets:
            return []
        identity = self.progress.identity or f"{self.inode}:{packets[0].timestamp_ns}"
        before = self.progress.packets
        self.progress = Progress(identity, before + len(packets))
        found = self.datagrams.feed(packets)
        known = self._earlier.packets if self._earlier is not None and self._earlier.identity == identity else 0
        skipped = max(known - before, 0)
        found = [one for one in found if one.row >= skipped]
        unwrapped = {one.row for one in found if one.is_whole}
        rest = [packet for row, packet in enumerate(packets) if row >= skipped and row not in unwrapped]
        drafts = drafts_of([one.datagram for one in found], self._ports)
        return [*drafts, packet_draft(rest, str(self.path))] if rest else drafts


def packet_draft(packets: Sequence[Packet], path: str) -> Draft:
    """Return raw events of packets.

    Args:
        packets: at least one.
        path: file that they come from.
    """
    count = len(packets)
    times = Numbers(np.fromiter((packet.timestamp_ns for packet in packets), np.int64, count))
    columns: dict[str, Column] = {
        "event.original": Bytes(*pack([packet.captured for packet in packets])),
        "raw.media_type": Constant("application/octet-stream", count),
        "packet.link_type": Numbers(np.fromiter((packet.link_type for packet in packets), np.uint16, count)),
        "packet.length": Numbers(np.fromiter((packet.length for packet in packets), np.uint32, count)),
        "occurred": times,
        "observed": times,
        "log.file.path": Constant(path, count),
    }
    return Draft(OUTPUT, count, columns)


def drafts_of_capture(
    pieces: Iterable[bytes], path: str, ports: Mapping[int, str] | None, lost: Counter[str]
) -> Iterator[Draft]:
    """Yield raw events of a capture that is read once, as `eddy cook` does.

    Args:
        pieces: its bytes, in pieces of any size.
        path: file that they come from.
        ports: UDP destination port to raw type of the exports that are wanted; None for all packets as they are.
        lost: where datagrams that could not be put together are counted, by reason.

    Raises:
        WireError: the capture is damaged; what comes before the damage was given.
    """
    reader, datagrams = PcapReader(), UdpPayloads(ports or ())
    try:
        for piece in pieces:
            packets = reader.feed(piece)
            if packets and ports is None:
                yield packet_draft(packets, path)
            elif packets and ports is not None:
                yield from drafts_of([found.datagram for found in datagrams.feed(packets)], ports)
        reader.close()
    finally:
        datagrams.close()
        lost.update(datagrams.lost)


def _matching(paths: Sequence[str]) -> list[Path]:
    """Return the files that the configured names stand for, each once.

    Raises:
        ConfigError: there is no name, or one stands for no file.
    """
    if not paths:
        raise ConfigError(["paths: no capture file is named; give the path of a pcap or pcapng file"])
    files: dict[Path, None] = {}
    for name in paths:
        path = Path(name)
        is_pattern = "*" in path.name or "?" in path.name
        found = sorted(path.parent.glob(path.name)) if is_pattern else [path]
        found = [one for one in found if one.is_file()]
        if not found:
            raise ConfigError([f"paths: no capture file {name!r}; give the path of a pcap or pcapng file"])
        files |= dict.fromkeys(found)
    return list(files)
