"""Headers of packets as columns of event fields; the packet and the sFlow cooking say the same of the same packet.

What may live here: `packet_columns` and the few column makers that it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.packet import Headers, Integers
from eddy_mesh.columns import Addresses, Column, Numbers, Words
from eddy_mesh.registry.protocols import protocol_name

_NETWORK_TYPES: Final = {0x0800: "ipv4", 0x86DD: "ipv6", 0x0806: "arp", 0x88CC: "lldp"}


def packet_columns(headers: Headers) -> dict[str, Column]:
    """Return the event fields of packets; a field that none of them has is left out.

    Lengths are left to the caller: they are those of the IP packet in a capture, of the frame in a sample.
    """
    is_v4 = headers.version == 4
    columns: dict[str, Column | None] = {
        "source.ip": _addresses(headers.source_ip, headers.version),
        "source.port": number_column(headers.source_port, np.uint16),
        "source.mac": word_column(headers.source_mac, mac_text),
        "destination.ip": _addresses(headers.destination_ip, headers.version),
        "destination.port": number_column(headers.destination_port, np.uint16),
        "destination.mac": word_column(headers.destination_mac, mac_text),
        "network.iana_number": number_column(headers.protocol, np.uint8),
        "network.transport": word_column(headers.protocol, protocol_name),
        "network.type": word_column(_named(headers.ethertype), _NETWORK_TYPES.__getitem__),
        "network.vlan.id": word_column(headers.vlan, str),
        "network.inner.vlan.id": word_column(headers.inner_vlan, str),
        "netflow.tcpControlBits": number_column(headers.tcp_flags, np.uint16),
        "netflow.icmpTypeCodeIPv4": number_column(np.where(is_v4, headers.icmp, -1), np.uint16),
        "netflow.icmpTypeCodeIPv6": number_column(np.where(is_v4, -1, headers.icmp), np.uint16),
        "netflow.fragmentOffset": number_column(_fragments(headers), np.uint16),
    }
    return {name: column for name, column in columns.items() if column is not None}


def number_column(values: Integers, dtype: npt.DTypeLike) -> Numbers | None:
    """Return a column of numbers, of which negative ones are null; None where all are."""
    nulls = values < 0
    if nulls.all():
        return None
    return Numbers(np.where(nulls, 0, values).astype(dtype), nulls if nulls.any() else None)


def word_column(values: Integers, text_of: Callable[[int], str]) -> Words | None:
    """Return a column with the text of each number, of which negative ones are null; None where all are."""
    nulls = values < 0
    if nulls.all():
        return None
    different, codes = np.unique(np.where(nulls, values.max(), values), return_inverse=True)
    words = tuple(text_of(value) for value in different.tolist())
    return Words(codes.astype(np.min_scalar_type(len(words))), words, nulls if nulls.any() else None)


def mac_text(number: int) -> str:
    """Return a 48-bit hardware address as tcpdump and the flow cookings write it: six lower-case pairs and colons."""
    return number.to_bytes(6, "big").hex(":")


def _addresses(halves: npt.NDArray[np.uint64], version: Integers) -> Addresses | None:
    nulls = version < 0
    if nulls.all():
        return None
    held = nulls if nulls.any() else None
    if not (version == 6).any():
        return Addresses((halves[:, 1] & 0xFFFF_FFFF).astype(">u4"), held)
    return Addresses(halves.astype(">u8"), held)


def _named(ethertype: Integers) -> Integers:
    named = np.full(len(ethertype), -1, np.int64)
    for known in _NETWORK_TYPES:
        named[ethertype == known] = known
    return named


def _fragments(headers: Headers) -> Integers:
    return np.where(headers.is_fragment, headers.fragment_offset, -1)
