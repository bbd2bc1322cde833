"""Which raw type a name on the command line stands for, and which cooking takes it.

What may live here: the look-up over the sources and cookings that are installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import NamedTuple

from eddy_mesh import discovery
from eddy_mesh.batch import Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.errors import UsageError

CAPTURE_SOURCE = "pcap"
"""The source that reads captures."""
LINE_TYPES = ("text/", "application/json")
"""Beginnings of the media types whose payloads are lines of a file."""
SHORT_NAMES = {"ipfix": "netflow.ipfix"}


class RawType(NamedTuple):
    """What is to be cooked.

    Attributes:
        kind: of the raw events.
        media_type: of their payloads.
        cooking: module of the cooking that takes them.
    """

    kind: Kind
    media_type: str
    cooking: ModuleType

    @property
    def is_lines(self) -> bool:
        """Whether a file holds one payload a line, not one payload."""
        return self.media_type.startswith(LINE_TYPES)


def raw_type(name: str) -> RawType:
    """Return what a name stands for: a raw type, a cooked type, or a source.

    Raises:
        UsageError: there is none; the text has the nearest.
    """
    sources = _sources()
    known = _names(sources)
    found = known.get(SHORT_NAMES.get(name, name))
    if found is None:
        close = get_close_matches(name, [*known, *SHORT_NAMES], n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"
        raise UsageError(f"there is no cooking for {name}; {hint}")
    raw, cooking = found
    kind, media_type = sources.get(raw, (Kind(Stage.RAW, EventClass.APPLICATION, raw), LINE_TYPES[0] + "plain"))
    return RawType(kind, media_type, discovery.part_module("transformer", cooking))


def capture_source() -> ModuleType:
    """Return the module that reads captures."""
    return discovery.part_module("normalizer", CAPTURE_SOURCE)


def _sources() -> dict[str, tuple[Kind, str]]:
    """Return kind and media type of every raw type; of two sources the one that states a media type tells it."""
    modules = [discovery.part_module("normalizer", name) for name in discovery.part_names("normalizer")]
    found: dict[str, tuple[Kind, str]] = {}
    for module in sorted(modules, key=lambda one: not hasattr(one, "MEDIA_TYPE")):
        for kind in discovery.kinds_of(module, Stage.RAW):
            found.setdefault(kind.type, (kind, getattr(module, "MEDIA_TYPE", "application/octet-stream")))
    return found


def _names(sources: Mapping[str, tuple[Kind, str]]) -> dict[str, tuple[str, str]]:
    """Return every name that is understood, with its raw type and the name of the cooking."""
    cookings = {name: discovery.part_module("transformer", name) for name in discovery.part_names("transformer")}
    known = {raw: (raw, name) for name, module in cookings.items() for raw in module.INPUT}
    for name, module in cookings.items():
        if len(module.INPUT) == 1:
            for kind in discovery.kinds_of(module, Stage.COOKED):
                if kind.event_class is not EventClass.DERIVED:
                    known.setdefault(kind.type, (module.INPUT[0], name))
    for name in discovery.part_names("normalizer"):
        output = getattr(discovery.part_module("normalizer", name), "OUTPUT", None)
        if isinstance(output, Kind) and output.type in known and output.type in sources:
            known.setdefault(name, known[output.type])
    return known
