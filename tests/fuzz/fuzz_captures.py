"""Any bytes as a capture file, in any pieces: packets and the datagrams in them, or a `WireError`."""

from __future__ import annotations

import struct
import sys

import atheris

with atheris.instrument_imports(include=["eddy_mesh", "eddy_agents"]):
    from eddy_agents.wire.pcap import PcapReader
    from eddy_agents.wire.udp_payloads import UdpPayloads
    from eddy_mesh.errors import WireError

PCAP = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
PCAPNG = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28) + struct.pack("<IIHHII", 1, 20, 1, 0, 0, 20)
HEADS = (b"", PCAP, PCAPNG)


def one_input(data: bytes) -> None:
    """Read bytes behind one of the heads, cut where the input says; or packets made of them."""
    chosen = atheris.FuzzedDataProvider(data)
    head = HEADS[chosen.ConsumeIntInRange(0, len(HEADS) - 1)]
    cut = chosen.ConsumeIntInRange(0, 256)
    body = bytes(chosen.ConsumeBytes(4096))
    if head is PCAP and chosen.ConsumeBool():
        body = struct.pack("<IIII", 1, 0, len(body), len(body)) + body
    reader, datagrams = PcapReader(), UdpPayloads()
    try:
        for piece in (head + body[:cut], body[cut:]):
            datagrams.feed(reader.feed(piece))
        reader.close()
    except WireError:
        return
    finally:
        datagrams.close()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
