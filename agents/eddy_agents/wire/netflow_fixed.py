"""The records of NetFlow v1, v5 and v7, whose layouts never change, in the elements of IPFIX, which took them over.

What may live here: the layout of each. Their headers are read with the others in `netflow_datagram`.

Source: Cisco, NetFlow Services Solutions Guide, appendix B; NetFlow FlowCollector User Guide, appendix B (v1, v7).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from eddy_agents.wire.netflow_datagram import V1, V5, V7
from eddy_agents.wire.netflow_layout import Layout, layout_of
from eddy_agents.wire.netflow_template import FieldSpec

# srcaddr dstaddr nexthop input output dPkts dOctets First Last srcport dstport: the same in all three
_ENDS: Final = ((8, 4), (12, 4), (15, 4), (10, 2), (14, 2), (2, 4), (1, 4), (22, 4), (21, 4), (7, 2), (11, 2))
_FIELDS: Final = {
    # pad prot tos flags pad
    V1: (*_ENDS, (210, 2), (4, 1), (5, 1), (6, 1), (210, 11)),
    # pad flags prot tos as as mask mask pad
    V5: (*_ENDS, (210, 1), (6, 1), (4, 1), (5, 1), (16, 2), (17, 2), (9, 1), (13, 1), (210, 2)),
    # which fields are not valid, flags prot tos as as mask mask, more that are not valid, the router that was bypassed
    V7: (*_ENDS, (210, 1), (6, 1), (4, 1), (5, 1), (16, 2), (17, 2), (9, 1), (13, 1), (210, 2), (130, 4)),
}
FIXED_LAYOUTS: Final[Mapping[int, Layout]] = {
    version: layout_of(version, [FieldSpec(0, number, length) for number, length in fields], is_options=False)
    for version, fields in _FIELDS.items()
}
"""Layout of the records by version."""
