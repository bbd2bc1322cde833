"""Source emit: takes lines and JSON objects of scripts, which `eddy emit TYPE` and ``Mesh.emit`` send over the bus.

In: messages on ``<backplane>.emit.<type>``, one line or JSON object each line, answered with how many were taken.
Out: ``raw.<class>.<type>`` of the source of that name where there is one (so ``syslog`` lines are cooked as if they
had come by UDP); for any other type ``raw.application.json`` with the type as ``labels.type``, cooked as that type.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from eddy_mesh import subjects
from eddy_mesh.agent import Draft
from eddy_mesh.batch import Kind
from eddy_mesh.bus import Message
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Bytes, Column, Constant, pack

if TYPE_CHECKING:
    from eddy_mesh.actor.cell import Cell

OUTPUT = Kind(Stage.RAW, EventClass.APPLICATION, "json")

LINE_KINDS = {
    "syslog": Kind(Stage.RAW, EventClass.SYSTEM, "syslog"),
    "file": Kind(Stage.RAW, EventClass.SYSTEM, "file"),
    "journald": Kind(Stage.RAW, EventClass.SYSTEM, "journald"),
    "json": OUTPUT,
}
"""Types of text events that other sources have as well."""

QUEUE = "emit"
MAX_WAITING = 64


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the source."""

    max_line_bytes: int = 1024 * 1024
    """longer lines are refused, with the reason in the answer"""


class Source:
    """Answers each message after its events were handed over.

    Args:
        config: settings.
    """

    def __init__(self, config: Config) -> None:
        self._config = config

    async def run(self, outlet: Cell) -> None:
        """Take messages until cancelled."""
        waiting: asyncio.Queue[Message] = asyncio.Queue(MAX_WAITING)
        subscription = await outlet.bus.subscribe(subjects.emit_all(outlet.backplane), waiting.put, queue=QUEUE)
        try:
            while True:
                message = await waiting.get()
                answer = await self._take(outlet, message)
                if message.reply:
                    await outlet.bus.publish(message.reply, msgspec.json.encode(answer))
        finally:
            await subscription.unsubscribe()

    async def _take(self, outlet: Cell, message: Message) -> dict[str, object]:
        type_name = subjects.parse_emit(message.subject)
        lines = [line.removesuffix(b"\r") for line in message.data.split(b"\n") if line.strip()]
        longest = max(map(len, lines), default=0)
        if longest > self._config.max_line_bytes:
            return {
                "error": f"a line has {longest} octets; the limit is {self._config.max_line_bytes} (max_line_bytes)"
            }
        if lines:
            await outlet.emit(draft(type_name, lines))
        return {"host": outlet.host, "accepted": len(lines)}


def draft(type_name: str, lines: list[bytes]) -> Draft:
    """Return raw events of lines.

    Args:
        type_name: as the script gave it.
        lines: at least one, without line ends.
    """
    kind = LINE_KINDS.get(type_name, OUTPUT)
    media_type = "application/json" if kind is OUTPUT else "text/plain"
    count = len(lines)
    columns: dict[str, Column] = {"event.original": Bytes(*pack(lines)), "raw.media_type": Constant(media_type, count)}
    if kind is OUTPUT and type_name != "json":
        columns["labels.type"] = Constant(type_name, count)
    return Draft(kind, count, columns)
