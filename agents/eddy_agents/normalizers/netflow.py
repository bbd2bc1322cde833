"""NetFlow and IPFIX over UDP: one export datagram is one raw event.

Takes in: UDP 2055 (NetFlow v5, v9) and 4739 (IPFIX); what a datagram holds is the cooking's business.
Gives: ``event.raw.network.netflow``.

Source: RFC 3954 (NetFlow v9), RFC 7011 section 10.3 (IPFIX over UDP), IANA port 4739.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from eddy_mesh.agent import Outlet
from eddy_mesh.batch import Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.datagrams import listen_in
from eddy_mesh.listening import Binding, PortTaken

OUTPUT = Kind(Stage.RAW, EventClass.NETWORK, "netflow")
GATHER_S = 0.01
"""How long datagrams gather while they come: exporters hold flows back for seconds, and many are cooked together."""
MEDIA_TYPE = "application/x-netflow"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the netflow source."""

    listen: tuple[str, ...] = ("*:2055", "*:4739")
    """Where to listen: ADDRESS:PORT, [IPv6]:PORT, or *:PORT for every address of both families."""

    port_taken: PortTaken = PortTaken.WARN
    """``warn``: use another port when one is taken, and say so; ``fail``: stop."""

    fallback_ports: tuple[Annotated[int, msgspec.Meta(ge=1, le=65535)], ...] = ()
    """Ports to try when one is taken, before the next free one."""

    reuse_port: bool = False
    """Share the ports with other processes that do the same; the kernel spreads the exporters over them."""


class Source:
    """Receives export datagrams."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def run(self, outlet: Outlet) -> None:
        """Emit each datagram until cancelled.

        Raises:
            ConfigError: an address is not one of this host.
            OSError: a port is taken and that is to be a failure, or a socket failed.
        """
        config = self._config
        binding = Binding("udp", config.port_taken, config.fallback_ports, config.reuse_port)
        await listen_in(config.listen, binding, outlet, OUTPUT, MEDIA_TYPE, GATHER_S)
