"""Cooks entries of the systemd journal.

In: ``eddy.event.raw.system.journald.*``, one JSON object a raw event as ``journalctl -o json`` writes it. Out:
``eddy.event.cooked.system.journald.*``, one event for each entry, in order, with what the messages of well-known
programs say. An entry that is not such an object is kept as the text of its message with ``error.message``.

Source: systemd.journal-fields(7); systemd, "Journal Export Formats", section "Journal JSON Format".
"""

from __future__ import annotations

import msgspec

from eddy_agents.wire.log_annotate import annotated_rows
from eddy_agents.wire.log_rows import carried_columns, payload_bytes, storable
from eddy_agents.wire.syslog import FACILITY_NAMES, decode
from eddy_mesh.agent import Draft, Example, Result
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.rows import columns_of

INPUT: tuple[str, ...] = ("journald",)
ON_DEMAND = True  # no event is needed to understand a later one
COOKED = Kind(Stage.COOKED, EventClass.SYSTEM, "journald")
_MICROSECOND_NS = 1000
_MAX_TIME_NS = (1 << 63) - 1

_TEXTS = {
    "_HOSTNAME": "host",
    "MESSAGE": "message",
    "SYSLOG_IDENTIFIER": "log.syslog.appname",
    "_COMM": "process.name",
    "_EXE": "process.executable",
    "_CMDLINE": "process.command_line",
    "_SYSTEMD_UNIT": "service.name",
    "_UID": "user.id",
    "_GID": "group.id",
    "_BOOT_ID": "host.boot.id",
    "CONTAINER_ID_FULL": "container.id",
    "CONTAINER_NAME": "container.name",
    "CODE_FILE": "log.origin.file.name",
    "MESSAGE_ID": "event.code",
}
_NUMBERS = {
    "_PID": "process.pid",
    "TID": "process.thread.id",
    "PRIORITY": "level",
    "SYSLOG_FACILITY": "log.syslog.facility.code",
    "CODE_LINE": "log.origin.file.line",
    "EXIT_STATUS": "process.exit_code",
}
_LIMITS = {"PRIORITY": 7, "SYSLOG_FACILITY": 23}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The journald cooking has no settings."""


class Cooking:
    """Raw journal entries → cooked ones."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def on_batch(self, batch: Batch, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's
        """Cook every entry of a batch."""
        if not batch.count:
            return Result()
        rows = [entry_fields(payload) for payload in payload_bytes(batch)]
        programs = [str(row.get("log.syslog.appname") or row.get("process.name") or "") for row in rows]
        known = annotated_rows(programs, [str(row.get("message") or "") for row in rows])
        return Result((_draft(batch, [row | more for row, more in zip(rows, known, strict=True)]),))

    def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's
        """Nothing is due by time."""
        return Result()


def _draft(batch: Batch, rows: list[dict[str, Value]]) -> Draft:
    return Draft(COOKED, batch.count, {**columns_of(rows), **carried_columns(batch)})


def entry_fields(payload: bytes) -> dict[str, Value]:
    """Return the fields of one entry.

    Args:
        payload: one JSON object.
    """
    try:
        entry = msgspec.json.decode(payload, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return {"message": decode(payload), "error.message": f"not a journal entry: {error}"}
    row: dict[str, Value] = {}
    for name, value in entry.items():
        field, converted = _field(name, _plain(value))
        if converted is not None:
            row[field] = converted
    row.setdefault("process.name", row.get("log.syslog.appname"))
    occurred = _time_ns(entry.get("_SOURCE_REALTIME_TIMESTAMP")) or _time_ns(entry.get("__REALTIME_TIMESTAMP"))
    facility = row.get("log.syslog.facility.code")
    row["occurred"] = occurred
    row["log.syslog.facility.name"] = FACILITY_NAMES[facility] if isinstance(facility, int) else None
    row["log.syslog.severity.code"] = row.get("level")
    return {field: value for field, value in row.items() if value is not None}


def _field(name: str, value: Value) -> tuple[str, Value]:
    if name in _TEXTS:
        return _TEXTS[name], str(value) if value is not None else None
    if name in _NUMBERS:
        number = _number(value)
        if number is not None and number <= _LIMITS.get(name, number):
            return _NUMBERS[name], number
    return f"journald.{name.lower()}", value


def _plain(value: object) -> Value:
    """Return a value as journald means it: a list of numbers is bytes, a list of texts is a repeated field."""
    if isinstance(value, list):
        if value and all(type(item) is int and 0 <= item <= 255 for item in value):
            return decode(bytes(value))
        return [_plain(item) for item in value]
    return storable(value)


def _number(value: Value) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _time_ns(value: object) -> int | None:
    microseconds = _number(value) if isinstance(value, str | int) else None
    if microseconds is None or microseconds * _MICROSECOND_NS > _MAX_TIME_NS:
        return None
    return microseconds * _MICROSECOND_NS


EXAMPLES: tuple[Example, ...] = (
    Example(
        given=(
            (
                b'{"MESSAGE":"pam_unix(sudo:session): session opened for user root(uid=0) by ann(uid=1000)",'
                b'"__REALTIME_TIMESTAMP":"1793697247250000","PRIORITY":"6","_PID":"77","_COMM":"sudo",'
                b'"SYSLOG_IDENTIFIER":"sudo","_HOSTNAME":"gate","_TRANSPORT":"syslog"}'
            ),
            b'{"MESSAGE":[104,105,33],"__REALTIME_TIMESTAMP":"1793697247000000"}',
        ),
        expected=(
            {
                "occurred": 1793697247250000000,
                "host": "gate",
                "level": 6,
                "process.pid": 77,
                "event.action": "session_opened",
                "user.name": "root",
                "journald._transport": "syslog",
            },
            {"message": "hi!", "occurred": 1793697247000000000},
        ),
    ),
)
