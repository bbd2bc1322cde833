"""One NATS server, in the network namespace of whoever starts this; it ends with standard input.

Run as ``python serve.py STATE NAME ADDRESS PORT LEAF_PORT [HUB]``: with HUB it is a leaf node without JetStream of its
own, so the hub's is reached through it; without, it is the hub and takes leaf nodes on LEAF_PORT. Prints its address
when it accepts clients. The line ``kill`` on standard input kills it, and starts it again.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from eddy_mesh.server import EmbeddedServer


async def main(state: str, name: str, address: str, port: str, leaf_port: str, hub: str = "") -> None:
    """Run it."""
    joined = f'remotes: [{{url: "nats://{hub}"}}]' if hub else f'listen: "{address}:{leaf_port}"'
    server = EmbeddedServer(
        Path(state),
        name=name,
        port=int(port),
        address=address,
        jetstream=not hub,
        # A leaf node keeps the streams' API to itself, unless it is told that its account has the hub's.
        extra_config=f'leafnodes {{ {joined}, reconnect: 1 }}\ndefault_js_domain: {{ "$G": "" }}',
    )
    async with server:
        print(server.url, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line == "kill\n":
                await server.kill()
                await server.restart()
                print(server.url, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
