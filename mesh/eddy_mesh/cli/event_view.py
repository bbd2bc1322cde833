"""Events as people read them: which columns a statement has, and one line for an event of any type.

What may live here: event → cells. No terminal, no IO.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

import msgspec

from eddy_mesh.cer import Value
from eddy_mesh.cli.output import LEVEL_STYLES, Cell, Column, duration_text, octets_text, time_of_day, zone
from eddy_mesh.fields import LEVEL_NAMES, FieldType, field
from eddy_mesh.rows import json_value
from eddy_mesh.selection.plan import Aggregate, Item, Plan
from eddy_mesh.selection.sql import WINDOW_END

_ENVELOPE = frozenset(
    {
        *(
            "id",
            "version",
            "type",
            "event_class",
            "stage",
            "occurred",
            "observed",
            "level",
            "parents",
            "raw.media_type",
        ),
        *("host", "host_address", "normalizer", "normalizer_address"),
    }
)
_OPTIONS_HEADER = frozenset(
    {
        *(
            "observer.ip",
            "netflow.version",
            "netflow.domain",
            "netflow.template",
            "netflow.sequence",
            "netflow.export_time",
        ),
        *("source.ip", "source.port", "event.original", "observer.port"),
    }
)
_LEAST = {FieldType.TIME: 12, FieldType.ADDRESS: 15, FieldType.LEVEL: 7, FieldType.INT: 5}
_RIGHT = frozenset({FieldType.INT, FieldType.FLOAT})
_MOST_PREVIEW_BYTES = 300
_NO_TIME = re.compile(r" in 0(\.0*)? (ns|us|ms|s)\b")
_PHASES = {"start": "began", "change": "goes on", "end": "ended"}
"""``event.type`` of a diagnosis → what is said before its hypothesis."""
_SEQUENCE = re.compile(r"(?P<protocol>\w+)\.expected_sequence")


class EventView:
    """Columns of a statement's result, and the cells of each row.

    Args:
        plan: the statement; ``*`` gets time, host, type and one line that says what happened.
        windows: whether the end of its window is shown with each row of a statement with EVERY.
    """

    def __init__(self, plan: Plan, *, windows: bool = True) -> None:
        self._items = plan.items
        self._windows = windows and plan.every_ns is not None
        until = [Column(f"until {zone()}", least=12)] if self._windows else []
        self.columns = [*until, *(_column(item) for item in plan.items)] or [
            Column(f"time {zone()}", least=12, folds=12),
            Column("host", least=8),
            Column("type", least=8),
            Column("event"),
        ]

    def cells(self, row: Mapping[str, Value], now_ns: int) -> list[Cell]:
        """Return the cells of one row.

        Args:
            row: dotted names to values.
            now_ns: times of another day than this one are shown with the day.
        """
        if self._items:
            end = row.get(WINDOW_END)
            until = [Cell(time_of_day(end, now_ns) if isinstance(end, int) else "", "quiet")] if self._windows else []
            return until + [value_cell(i.name, row.get(i.name), now_ns, _meaning(i)) for i in self._items]
        occurred = row.get("occurred", row.get("observed"))
        host = row.get("host", row.get("host_address", row.get("normalizer", "")))
        return [
            Cell(time_of_day(occurred, now_ns) if isinstance(occurred, int) else "", "quiet", wraps=True),
            Cell(str(host)),
            Cell(str(row.get("type", "")), "notable"),
            summary(row),
        ]


def _column(item: Item) -> Column:
    title = f"{item.name} {zone()}" if item.value.type is FieldType.TIME else item.name
    return Column(title, item.value.type in _RIGHT, _LEAST.get(item.value.type, 0))


def _meaning(item: Item) -> str:
    """Return the name of the field whose type and unit a value of the item has; "" for a count."""
    if isinstance(item.value, Aggregate):
        return item.value.operand.name if item.value.operand is not None and item.value.function != "count" else ""
    return item.value.name


@cache
def _unit(name: str) -> str:
    known = field(name)
    return known.unit if known is not None else ""


def value_cell(name: str, value: Value, now_ns: int, like: str | None = None) -> Cell:
    """Return one value as people read it: levels by name, times of day, sizes and durations with units.

    Args:
        name: name of the column.
        value: the value.
        now_ns: times of another day than this one are shown with the day.
        like: name of the field whose type and unit the value has; None: that of the column.
    """
    meaning = name if like is None else like
    if value is None:
        return Cell("-", "quiet")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number_cell(value, meaning, now_ns)
    shown = json_value(meaning, value)
    if isinstance(shown, str):
        return Cell(shown)
    return Cell(msgspec.json.encode(shown).decode())


def _number_cell(value: float, meaning: str, now_ns: int) -> Cell:
    known = field(meaning) if meaning else None
    if known is not None and known.type is FieldType.TIME:
        return Cell(time_of_day(int(value), now_ns))
    if known is not None and known.type is FieldType.LEVEL and value in range(8):
        return level_cell(int(value))
    unit = _unit(meaning) if meaning else ""
    if unit in {"octets", "bytes"}:
        return Cell(octets_text(value))
    if unit == "ns":
        return Cell(duration_text(value))
    if meaning and not unit:
        return Cell(str(value) if isinstance(value, int) else f"{value:.6g}")  # a port or a code is no quantity
    return Cell(f"{value:,}" if isinstance(value, int) else f"{value:,.6g}")


def level_cell(level: int) -> Cell:
    """Return the name of a level in its colour."""
    return Cell(LEVEL_NAMES[level], LEVEL_STYLES[level])


def summary(row: Mapping[str, Value]) -> Cell:
    """Return one line that says what happened, coloured by level."""
    level = row.get("level")
    style = LEVEL_STYLES[level] if isinstance(level, int) and level in range(8) else ""
    if "diagnosis.hypothesis" in row:
        return Cell(readable(row), "found", wraps=True)
    if "message" in row:
        return Cell(_message(row), style)
    if lapse := _lapse(row):
        return Cell(lapse, style)
    if row.get("type") == "netflow.options":
        return Cell(_options(row), style)
    if "source.ip" in row or "destination.ip" in row:
        return Cell(_flow(row), style)
    if "event.original" in row:
        return Cell(_payload(row["event.original"]), style)
    if "process.name" in row:
        parts = (_text("event.action", row), _process(row, ""), _text("process.command_line", row))
        return Cell(" ".join(filter(None, parts)), style)
    rest = (f"{name}={_text(name, row)}" for name in row if name not in _ENVELOPE)
    return Cell(" ".join(rest), style)


def readable(diagnosis: Mapping[str, Value]) -> str:
    """Return the hypothesis of a diagnosis, and whether it began or ended."""
    hypothesis = _NO_TIME.sub("", _text("diagnosis.hypothesis", diagnosis))
    phase = _PHASES.get(_text("event.type", diagnosis))
    return f"{phase}: {hypothesis}" if phase else hypothesis


def _message(row: Mapping[str, Value]) -> str:
    """Return the message after the program that wrote it, where it does not name it itself."""
    message = _text("message", row)
    if row.get("type") == "host.connection":
        return message.replace(" -> ", " → ", 1)
    program = _process(row, "") or _text("log.syslog.appname", row)
    return message if not program or message.startswith(program) else f"{program}: {message}"


def _lapse(row: Mapping[str, Value]) -> str:
    """Return what did not come of an exporter, "" for another event."""
    exporter = _text("observer.ip", row) or _text("host_address", row) or "an exporter"
    if row.get("type") == "netflow.template_unknown":
        return f"data of {exporter} were given up: template {_text('netflow.template', row)} never came"
    expected = next((name for name in row if _SEQUENCE.fullmatch(name)), "")
    if not expected:
        return ""
    protocol = expected.partition(".")[0]
    lost, came = _text(f"{protocol}.lost", row), _text(f"{protocol}.sequence", row)
    what = f"{lost} lost" if lost else "a gap"
    return f"{what} on the way from {exporter}: sequence number {_text(expected, row)} expected, {came} came"


def _options(row: Mapping[str, Value]) -> str:
    """Return what an exporter says of itself."""
    told = [name for name in row if name not in _ENVELOPE and name not in _OPTIONS_HEADER]
    shown = ", ".join(f"{name.removeprefix('netflow.')} {_text(name, row)}" for name in told)
    return f"{_text('observer.ip', row) or _text('host_address', row) or 'an exporter'} says: {shown}"


def _process(row: Mapping[str, Value], after: str) -> str:
    if "process.name" not in row:
        return ""
    pid = f"[{_text('process.pid', row)}]" if "process.pid" in row else ""
    return f"{_text('process.name', row)}{pid}{after}"


def _flow(row: Mapping[str, Value]) -> str:
    parts = [_text("network.transport", row) or _text("network.iana_number", row)]
    parts.append(f"{_end(row, 'source')} → {_end(row, 'destination')}")
    parts.append(", ".join(_amounts(row)))
    parts += [_text(name, row) for name in ("event.action", "process.name")]
    return " ".join(part for part in parts if part)


def _amounts(row: Mapping[str, Value]) -> Iterator[str]:
    """Yield how much a flow carried, and how long it took where that is known and not 0."""
    for name in ("network.packets", "network.bytes", "event.duration"):
        value = row.get(name, row.get(name.replace("network.", "source.")))
        if not isinstance(value, int | float) or (name == "event.duration" and not value):
            continue
        text = value_cell(name, value, 0).text
        yield f"{text} packet{'' if value == 1 else 's'}" if name == "network.packets" else text


def _end(row: Mapping[str, Value], end: str) -> str:
    address, port = _text(f"{end}.ip", row) or "?", _text(f"{end}.port", row)
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _payload(value: Value) -> str:
    if not isinstance(value, bytes):
        return str(value)
    shown = json_value("event.original", value[:_MOST_PREVIEW_BYTES])
    return shown if isinstance(shown, str) else f"{len(value)} octets: {value[:32].hex(' ', 4)}"


def _text(name: str, row: Mapping[str, Value]) -> str:
    """Return the value of a field as text, "" where the event does not have it."""
    value = row.get(name)
    if value is None:
        return ""
    shown = json_value(name, value)
    return shown if isinstance(shown, str) else msgspec.json.encode(shown).decode()
