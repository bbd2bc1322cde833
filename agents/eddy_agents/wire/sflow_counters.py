"""Layouts of sFlow counter records: data, with the reader that applies them.

What may live here: one line for each structure of fixed layout, its members named as in the specification.

Source: sFlow version 5 (July 2004) section 5.3, sFlow Host Structures (July 2010); RFC 2863, 3635, 1748 and 2020 define
the interface counters that the members are named after.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from eddy_mesh.cer import Value


class _Layout(NamedTuple):
    head: Struct
    names: tuple[str, ...]


def _layout(form: str, names: str) -> _Layout:
    return _Layout(Struct(">" + form), tuple(f"sflow.{name}" for name in names.split()))


_LAYOUTS: Final[dict[tuple[int, int], _Layout]] = {
    (0, 1): _layout(  # if_counters
        "IIQIIQ6IQ6I",
        "ifIndex ifType ifSpeed ifDirection ifStatus ifInOctets ifInUcastPkts ifInMulticastPkts ifInBroadcastPkts"
        " ifInDiscards ifInErrors ifInUnknownProtos ifOutOctets ifOutUcastPkts ifOutMulticastPkts ifOutBroadcastPkts"
        " ifOutDiscards ifOutErrors ifPromiscuousMode",
    ),
    (0, 2): _layout(  # ethernet_counters
        "13I",
        "dot3StatsAlignmentErrors dot3StatsFCSErrors dot3StatsSingleCollisionFrames dot3StatsMultipleCollisionFrames"
        " dot3StatsSQETestErrors dot3StatsDeferredTransmissions dot3StatsLateCollisions dot3StatsExcessiveCollisions"
        " dot3StatsInternalMacTransmitErrors dot3StatsCarrierSenseErrors dot3StatsFrameTooLongs"
        " dot3StatsInternalMacReceiveErrors dot3StatsSymbolErrors",
    ),
    (0, 3): _layout(  # tokenring_counters
        "18I",
        "dot5StatsLineErrors dot5StatsBurstErrors dot5StatsACErrors dot5StatsAbortTransErrors dot5StatsInternalErrors"
        " dot5StatsLostFrameErrors dot5StatsReceiveCongestions dot5StatsFrameCopiedErrors dot5StatsTokenErrors"
        " dot5StatsSoftErrors dot5StatsHardErrors dot5StatsSignalLoss dot5StatsTransmitBeacons dot5StatsRecoverys"
        " dot5StatsLobeWires dot5StatsRemoves dot5StatsSingles dot5StatsFreqErrors",
    ),
    (0, 4): _layout(  # vg_counters
        "IQIQ5IQIQQQ",
        "dot12InHighPriorityFrames dot12InHighPriorityOctets dot12InNormPriorityFrames dot12InNormPriorityOctets"
        " dot12InIPMErrors dot12InOversizeFrameErrors dot12InDataErrors dot12InNullAddressedFrames"
        " dot12OutHighPriorityFrames dot12OutHighPriorityOctets dot12TransitionIntoTrainings"
        " dot12HCInHighPriorityOctets dot12HCInNormPriorityOctets dot12HCOutHighPriorityOctets",
    ),
    (0, 5): _layout(  # vlan_counters
        "IQIIII", "vlan_id octets ucastPkts multicastPkts broadcastPkts discards"
    ),
    (0, 1001): _layout(  # processor; percentages in hundredths
        "IIIQQ", "5s_cpu 1m_cpu 5m_cpu total_memory free_memory"
    ),
    (0, 2003): _layout(  # host_cpu
        "fff14I",
        "load_one load_five load_fifteen proc_run proc_total cpu_num cpu_speed uptime cpu_user cpu_nice cpu_system"
        " cpu_idle cpu_wio cpu_intr cpu_sintr interrupts contexts",
    ),
    (0, 2004): _layout(  # host_memory
        "7Q4I",
        "mem_total mem_free mem_shared mem_buffers mem_cached swap_total swap_free page_in page_out swap_in swap_out",
    ),
    (0, 2005): _layout(  # host_disk_io
        "QQIIQIIQI",
        "disk_total disk_free part_max_used reads bytes_read read_time writes bytes_written write_time",
    ),
    (0, 2006): _layout(  # host_net_io
        "QIIIQIII",
        "net_bytes_in net_packets_in net_errs_in net_drops_in net_bytes_out net_packets_out net_errs_out net_drops_out",
    ),
}
"""(enterprise, format) of a counter record to its layout."""


def counter_fields(enterprise: int, number: int, body: bytes) -> dict[str, Value]:
    """Return the members of a counter record as event fields; total.

    A record that has no layout, or is shorter than its layout, is kept as hexadecimal text in
    ``sflow.<enterprise>_<format>``; so is what follows a layout that was extended later.
    """
    layout = _LAYOUTS.get((enterprise, number))
    if layout is None or len(body) < layout.head.size:
        return {f"sflow.{enterprise}_{number}": body.hex()}
    fields: dict[str, Value] = dict(zip(layout.names, layout.head.unpack_from(body), strict=True))
    if len(body) > layout.head.size:
        fields[f"sflow.{enterprise}_{number}"] = body[layout.head.size :].hex()
    return fields
