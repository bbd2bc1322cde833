"""Cooks syslog messages: header, structured data, and what the messages of well-known programs say.

In: ``eddy.event.raw.system.syslog.*``, one message a raw event, without framing. Out:
``eddy.event.cooked.system.syslog.*``, one event for each message, in order. Nothing is refused: of a message with a
broken header as much is kept as can be found, and a line without any structure is its own message. What the header
did not say and was supplied is listed in ``syslog.repair``: ``year``, ``timezone``, ``host`` (the sender's address),
``timestamp`` (when it was observed), ``charset`` (the bytes were not UTF-8 and were read as Latin-1).

Source: RFC 5424, RFC 3164, Cisco IOS "System Message Logging".
"""

from __future__ import annotations

import msgspec

from eddy_agents.wire.log_formats import BSD, ISO, RFC5424
from eddy_agents.wire.log_lines import ANY_LINE, LineCooking
from eddy_agents.wire.syslog_time import zone_of
from eddy_mesh.agent import Example, Result
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage

INPUT: tuple[str, ...] = ("syslog",)
ON_DEMAND = True  # no event is needed to understand a later one
COOKED = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the syslog cooking."""

    timezone: str = "UTC"
    """IANA name of the zone of times that do not say theirs (RFC 3164)."""


class Cooking:
    """Raw syslog messages → cooked ones."""

    def __init__(self, config: Config) -> None:
        self._lines = LineCooking(
            zone_of(config.timezone), (BSD, RFC5424, ISO), syslog=ANY_LINE, host_from=("host_address", "normalizer")
        )

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Cook every message of a batch."""
        if not batch.count:
            return Result()
        return Result((self._lines.cook(batch, COOKED, now_ns),))

    def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's
        """Nothing is due by time."""
        return Result()


EXAMPLES: tuple[Example, ...] = (
    Example(
        given=(b"<38>Nov  3 09:14:07 gate sshd[812]: Failed password for invalid user bob from 192.0.2.7 port 50022",),
        expected=(
            {
                "host": "gate",
                "level": 6,
                "log.syslog.facility.code": 4,
                "process.name": "sshd",
                "process.pid": 812,
                "event.action": "ssh_login",
                "event.outcome": "failure",
                "user.name": "bob",
                "source.ip": "192.0.2.7",
                "source.port": 50022,
                "syslog.format": "rfc3164",
                "syslog.repair": ["year", "timezone"],
            },
        ),
    ),
    Example(
        given=(b'<165>1 2026-11-03T09:14:07.25Z gate app 7 ID1 [meta seq="4"] disk is full',),
        expected=(
            {
                "occurred": 1793697247250000000,
                "host": "gate",
                "level": 5,
                "log.syslog.msgid": "ID1",
                "syslog.structured_data.meta.seq": "4",
                "syslog.format": "rfc5424",
                "message": "disk is full",
            },
        ),
    ),
    Example(
        given=(
            b"<189>71: core1: Nov  3 09:14:07: %LINK-3-UPDOWN: Interface Gi0/1, changed state to down",
            b"no header",
        ),
        expected=(
            {"host": "core1", "event.code": "UPDOWN", "syslog.message_counter": 71, "syslog.format": "cisco"},
            {"message": "no header", "syslog.format": "unknown"},
        ),
    ),
)
