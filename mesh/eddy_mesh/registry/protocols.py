"""Names of the IP protocols, as the event field ``network.transport`` carries them.

What may live here: the loader of ``protocols.tsv``, which holds IANA's keywords in lower case. Pure.
"""

from __future__ import annotations

from functools import cache
from importlib import resources


def protocol_name(number: int) -> str:
    """Name an IP protocol; total, because the number comes from the network.

    Args:
        number: protocol number of an IPv4 header, or the last next-header number of an IPv6 one, 0-255.

    Returns:
        IANA's keyword in lower case (``tcp``, ``ipv6-icmp``), or the number in decimal where IANA has none.
        Source: IANA "Protocol Numbers".
    """
    return _names().get(number) or str(number)


@cache
def _names() -> dict[int, str]:
    text = resources.files(__package__).joinpath("protocols.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines()[1:])
    return {int(number): name for number, name in rows}
