"""Cooks the lines of log files: syslog files, web server logs, lines that begin with a time, and any other text.

In: ``eddy.event.raw.system.file.*``, one line a raw event. Out: ``eddy.event.cooked.system.file.*``, one event for each
line, in order, with the fields that the syslog cooking gives where the line is a syslog line. The form is found for
each line; the one that fits the first line of a batch is tried first. A line in no known form is its own message.

Source: RFC 3164, RFC 5424, rsyslog's file formats, Apache HTTP Server "Log Files", nginx log_format combined.
"""

from __future__ import annotations

import msgspec

from eddy_agents.wire.log_formats import ACCESS, BSD, ERROR, ISO, RFC5424, STAMPED
from eddy_agents.wire.log_lines import HEADED_LINE, LineCooking
from eddy_agents.wire.syslog_time import zone_of
from eddy_mesh.agent import Example, Result
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage

INPUT: tuple[str, ...] = ("file",)
ON_DEMAND = True  # no event is needed to understand a later one
COOKED = Kind(Stage.COOKED, EventClass.SYSTEM, "file")
_FORMATS = (BSD, ISO, RFC5424, ACCESS, ERROR, STAMPED)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the file cooking."""

    timezone: str = "UTC"
    """IANA name of the zone of times that do not say theirs."""


class Cooking:
    """Raw lines → cooked ones."""

    def __init__(self, config: Config) -> None:
        self._lines = LineCooking(
            zone_of(config.timezone), _FORMATS, syslog=HEADED_LINE, host_from=("host", "host_address", "normalizer")
        )

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Cook every line of a batch."""
        if not batch.count:
            return Result()
        return Result((self._lines.cook(batch, COOKED, now_ns),))

    def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's
        """Nothing is due by time."""
        return Result()


EXAMPLES: tuple[Example, ...] = (
    Example(
        given=(
            b"Nov  3 09:14:07 gate CRON[99]: (root) CMD (run-parts /etc/cron.hourly)",
            b'192.0.2.7 - ann [03/Nov/2026:09:14:07 +0000] "GET /index.html HTTP/1.1" 404 17 "-" "curl/8"',
            b"just a line",
        ),
        expected=(
            {"host": "gate", "event.action": "cron_command", "process.command_line": "run-parts /etc/cron.hourly"},
            {
                "occurred": 1793697247000000000,
                "source.ip": "192.0.2.7",
                "user.name": "ann",
                "url.original": "/index.html",
                "http.response.status_code": 404,
                "event.outcome": "failure",
            },
            {"message": "just a line"},
        ),
    ),
)
