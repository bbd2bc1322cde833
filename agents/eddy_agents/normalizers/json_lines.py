"""JSON from programs: one line is one raw event; from a file, a named pipe, standard input or TCP.

Takes in: newline-delimited JSON. A line that is no JSON is taken as it is: the cooking says what is wrong with it.
Gives: ``event.raw.application.json``.

Source: RFC 8259; newline-delimited JSON as in the "JSON Lines" convention.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Annotated

import msgspec
import numpy as np

from eddy_agents.wire.framing import MAX_FRAME_BYTES, Frames, LineFramer
from eddy_mesh.admission import FIRST_WAIT_S, MAX_CONNECTIONS, MAX_CONNECTIONS_PER_PEER, Limits
from eddy_mesh.agent import Draft, Outlet
from eddy_mesh.batch import Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Column, Constant, Numbers
from eddy_mesh.connections import Connection, StreamListener
from eddy_mesh.errors import ConfigError
from eddy_mesh.listening import (
    Binding,
    Pace,
    PortTaken,
    bind,
    emit_last,
    emit_or_count,
    first_of,
    rest_of,
)

OUTPUT = Kind(Stage.RAW, EventClass.APPLICATION, "json")
MEDIA_TYPE = "application/json"
_READ_BYTES = 256 * 1024


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the json_lines source."""

    listen: tuple[str, ...] = ()
    """TCP endpoints: ADDRESS:PORT, [IPv6]:PORT, or *:PORT for every address of both families."""

    path: str = ""
    """A file, which is read once, a named pipe, which is read for ever, or ``-`` for standard input; "" for none."""

    port_taken: PortTaken = PortTaken.WARN
    """``warn``: use another port when one is taken, and say so; ``fail``: stop."""

    fallback_ports: tuple[Annotated[int, msgspec.Meta(ge=1, le=65535)], ...] = ()
    """Ports to try when one is taken, before the next free one."""

    max_connections: Annotated[int, msgspec.Meta(ge=1)] = MAX_CONNECTIONS
    """Connections open at a time; one more is closed at once, counted, with a notice."""

    max_connections_per_peer: Annotated[int, msgspec.Meta(ge=1)] = MAX_CONNECTIONS_PER_PEER
    """Those of one peer: an IPv4 address or an IPv6 /64."""

    first_message_wait_s: Annotated[float, msgspec.Meta(gt=0)] = FIRST_WAIT_S
    """A connection that sent no whole line for so long is closed; after its first it may be quiet for days."""

    max_line_bytes: Annotated[int, msgspec.Meta(ge=1)] = MAX_FRAME_BYTES
    """Longest line; of a longer one the beginning is taken and the rest skipped, with a notice."""


class Source:
    """Reads lines of JSON."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def run(self, outlet: Outlet) -> None:
        """Emit each line until cancelled; without listeners also until the input has ended.

        Raises:
            ConfigError: there is nothing to read from, or it can not be opened.
            OSError: a port is taken and that is to be a failure, or reading failed.
        """
        config = self._config
        if not config.listen and not config.path:
            raise ConfigError(["json_lines: nothing to read from: set listen (for example 127.0.0.1:5170) or path"])
        binding = Binding("tcp", config.port_taken, config.fallback_ports)
        lines = _Lines(outlet, config.max_line_bytes)
        limits = Limits(
            _READ_BYTES, config.max_connections, config.max_connections_per_peer, config.first_message_wait_s
        )
        listener = StreamListener(outlet, limits, lines.attend)
        with ExitStack() as opened:
            sockets = [opened.enter_context(bind(text, binding, outlet)) for text in config.listen]
            descriptor = _open(config.path) if config.path else None
            try:
                async with asyncio.TaskGroup() as group:
                    if descriptor is not None:
                        group.create_task(lines.read(descriptor, config.path))
                    if sockets:
                        group.create_task(listener.serve((bound, None) for bound in sockets))
            except* OSError as failed:
                raise first_of(failed) from failed


def _open(path: str) -> int:
    """Return a descriptor of the input.

    A named pipe is opened for writing too: so it does not end when its last writer goes.
    """
    if path == "-":
        return os.dup(sys.stdin.fileno())
    try:
        is_pipe = stat.S_ISFIFO(os.stat(path).st_mode)  # noqa: PTH116  # opened next, by the same name
        mode = os.O_RDWR | os.O_NONBLOCK if is_pipe else os.O_RDONLY
        return os.open(path, mode | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise ConfigError(
            [f"path: {path} can not be read ({error.strerror}): check the name and its rights"]
        ) from error


class _Lines:
    """What happens on inputs and connections."""

    def __init__(self, outlet: Outlet, max_line_bytes: int) -> None:
        self._outlet = outlet
        self._max_line_bytes = max_line_bytes

    async def attend(self, connection: Connection) -> None:
        """Take in one connection."""
        columns = {"host_address": connection.address, "source.port": connection.port}
        await self._forward(connection.reader, columns, connection.heard)

    async def read(self, descriptor: int, path: str) -> None:
        """Take in an input to its end; the descriptor is closed then."""
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            await self._read_file(descriptor, path)
            return
        columns = {"log.file.path": path}
        reader = asyncio.StreamReader(limit=_READ_BYTES)
        pipe = os.fdopen(descriptor, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            await self._forward(reader, columns, lambda: None)
            self._outlet.notice("input_ended", **columns)
        finally:
            transport.close()

    async def _read_file(self, descriptor: int, path: str) -> None:
        """Take in a file once. Reading it does not wait, so that a connection's machinery is of no use."""
        framer = LineFramer(self._max_line_bytes)
        columns = {"log.file.path": path}
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            while data := file.read(_READ_BYTES):
                await self._emit(framer.feed(data), columns)
                await asyncio.sleep(0)
        await self._emit(framer.finish(), columns)
        self._outlet.notice("input_ended", **columns)

    async def _forward(
        self, reader: asyncio.StreamReader, columns: Mapping[str, str | int | None], heard: Callable[[], None]
    ) -> None:
        framer = LineFramer(self._max_line_bytes)
        pace = Pace()
        try:
            while data := await reader.read(_READ_BYTES):
                frames = framer.feed(data)
                if len(frames):
                    heard()
                await self._emit(frames, columns)
                await pace.wait(len(frames), full=len(data) == _READ_BYTES)
        except asyncio.CancelledError:
            await self._emit_last(framer.feed(await rest_of(reader, _READ_BYTES)), columns)
            raise
        finally:
            await self._emit_last(framer.finish(), columns)

    async def _emit(self, frames: Frames, columns: Mapping[str, str | int | None]) -> None:
        if frames.cut:
            self._outlet.notice("line_too_long", **{"edge.count": frames.cut}, **columns)
        if len(frames):
            await emit_or_count(self._outlet, self._draft(frames, columns))

    async def _emit_last(self, frames: Frames, columns: Mapping[str, str | int | None]) -> None:
        if len(frames):
            await emit_last(self._outlet, self._draft(frames, columns))

    def _draft(self, frames: Frames, columns: Mapping[str, str | int | None]) -> Draft:
        count = len(frames)
        made: dict[str, Column] = {
            "event.original": frames.payloads,
            "raw.media_type": Constant(MEDIA_TYPE, count),
            "observed": Numbers(np.full(count, self._outlet.now_ns(), np.int64)),
        }
        made |= {name: Constant(value, count) for name, value in columns.items() if value is not None}
        return Draft(OUTPUT, count, made)
