"""Demand: who asked this host process for what, and the publishing of just that.

What may live here: the table of leases with their compiled statements, and the publishing of flows. Each batch is
evaluated once for all leases with the same statement.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh import codec, flows, subjects
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Bus
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError, EddyError, UsageError
from eddy_mesh.flows import Lease
from eddy_mesh.rows import json_rows
from eddy_mesh.selection import Plan, compile_statement, matcher, matches_kind, project

MAX_FLOWS = 512
MAX_STATEMENT = 65_536
MAX_NAME = 256
"""Bounds of what others can make this host process hold and tell in its heartbeat: flows, and characters."""
MAX_LEASE_S = 3600.0
MAX_KINDS = 1024


class Flow:
    """One statement that somebody subscribed to."""

    def __init__(self, lease: Lease, plan: Plan, epoch: int, host: str) -> None:
        self.id = lease.id
        self.form = lease.form
        self.statement = lease.statement
        self.plan = plan
        self.match: Callable[[Batch], npt.NDArray[np.bool_]] = matcher(plan)
        self.owners: dict[str, int] = {}
        self.epoch = epoch
        self.position = 0
        self.bytes_moved = 0
        self.ledger = Ledger(f"{host} > flow {lease.id}", policy="drop")
        self._wanted: dict[tuple[Kind, str], bool] = {}

    def wants(self, kind: Kind, origin: str) -> bool:
        """Whether the statement can match events of that kind and origin at all."""
        known = self._wanted.get((kind, origin))
        if known is None:
            if len(self._wanted) > MAX_KINDS:
                self._wanted.clear()
            known = self._wanted[kind, origin] = matches_kind(self.plan, kind, origin)
        return known


class Demand:
    """The leases of one backplane, as one host process knows them.

    Args:
        bus: connected bus.
        backplane: name of the mesh.
        host: name of this host process.
    """

    def __init__(self, bus: Bus, backplane: str, host: str) -> None:
        self.flows: dict[str, Flow] = {}
        self._bus = bus
        self._backplane = backplane
        self._host = host

    def subscribe(self, data: bytes, now_ns: int) -> bool:
        """Take or renew a lease.

        Returns:
            Whether this host publishes for it; False for a lease of its own.

        Raises:
            UsageError: not a lease, or its statement can not be compiled.
        """
        lease = _lease(data)
        if lease.owner.startswith(f"{self._host}/"):
            return False
        flow = self.flows.get(lease.id)
        if flow is None:
            if len(self.flows) >= MAX_FLOWS:
                raise UsageError(f"{self._host} publishes {MAX_FLOWS} flows already: end one, or share a statement")
            plan = compile_statement(lease.statement, now_ns=now_ns)
            flow = self.flows[lease.id] = Flow(lease, plan, now_ns // 1_000_000_000, self._host)
        elif (flow.statement, flow.form) != (lease.statement, lease.form):
            raise UsageError(f"flow {lease.id} is of another statement: use an id of your own, or that statement")
        flow.owners[lease.owner] = now_ns + int(min(max(lease.lease_s, 0.0), MAX_LEASE_S) * 1e9)
        return True

    def unsubscribe(self, data: bytes) -> None:
        """End a lease. One that is not held is no error.

        Raises:
            UsageError: not a lease.
        """
        lease = _lease(data)
        flow = self.flows.get(lease.id)
        if flow is not None:
            flow.owners.pop(lease.owner, None)
            if not flow.owners:
                del self.flows[lease.id]

    def expire(self, now_ns: int) -> None:
        """End the leases that nobody renewed."""
        for flow in list(self.flows.values()):
            flow.owners = {owner: until for owner, until in flow.owners.items() if until > now_ns}
            if not flow.owners:
                del self.flows[flow.id]

    async def read_leases(self, now_ns: int) -> None:
        """Take the leases that are on record: at the start and after a lost connection."""
        try:
            record = await self._bus.key_value(flows.bucket(self._backplane), ttl_s=flows.LEASE_S * 2, memory=True)
            for key in await record.keys():
                entry = await record.get(key)
                if entry is not None:
                    with suppress(UsageError):  # it makes no sense, and whoever renews it is told so
                        self.subscribe(entry.value, now_ns)
        except EddyError:
            return  # no JetStream: renewals tell us

    async def publish(self, batch: Batch) -> None:
        """Publish what the flows select of a batch."""
        for flow in list(self.flows.values()):
            if not flow.wants(batch.kind, batch.origin):
                continue
            flow.ledger.offered += batch.count
            index = np.flatnonzero(flow.match(batch))
            flow.ledger.filtered += batch.count - len(index)
            if len(index):
                await self._send(flow, project(flow.plan, batch).take(index))

    async def _send(self, flow: Flow, batch: Batch) -> None:
        subject = subjects.flow(self._backplane, flow.id)
        parts = codec.split(batch) if flow.form == "columns" else _json_parts(batch)
        for part, data in parts:
            headers = flows.headers(part, self._host, flow.epoch, flow.position)
            flow.position += part.count
            try:
                await self._bus.publish(subject, data, headers=headers)
            except BusError:
                flow.ledger.drop("disconnected", part.count)
                continue
            flow.ledger.out += part.count
            flow.bytes_moved += len(data)


def _json_parts(batch: Batch) -> list[tuple[Batch, bytes]]:
    lines = b"\n".join(json_rows(batch))
    if len(lines) <= codec.MAX_MESSAGE_BYTES or batch.count == 1:
        return [(batch, lines)]
    half = batch.count // 2
    return _json_parts(batch.slice(0, half)) + _json_parts(batch.slice(half, batch.count))


def _lease(data: bytes) -> Lease:
    try:
        lease = msgspec.json.decode(data, type=Lease)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"not a lease ({error}): send id, statement and owner as JSON") from None
    if not lease.id or max(len(lease.id), len(lease.owner)) > MAX_NAME or len(lease.statement) > MAX_STATEMENT:
        raise UsageError(
            f"not a lease: id and owner have 1 to {MAX_NAME} characters, a statement {MAX_STATEMENT} at most"
        )
    return lease
