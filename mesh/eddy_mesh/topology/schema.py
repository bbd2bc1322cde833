"""Schema: JSON Schema of the manifest, for editors that complete and check TOML.

What may live here: what msgspec derives from the structs, less what nobody writes by hand.
"""

from __future__ import annotations

import msgspec

from eddy_mesh.topology.manifest import Manifest

MADE = ("in_edges", "out_edges")
"""Members of an agent's table that a placement makes."""


def manifest_schema() -> dict[str, object]:
    """Return the JSON Schema (draft 2020-12) of a manifest."""
    schema = msgspec.json.schema(Manifest, schema_hook=_anything)
    definitions = schema["$defs"]
    for name in ("AgentConfig", "AgentEntry"):
        for member in MADE:
            definitions[name]["properties"].pop(member)
    for name in ("InEdge", "OutEdge", "Partition"):
        definitions.pop(name)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "EDDY topology manifest", **schema}


def _anything(kind: type) -> dict[str, object]:
    """Return what is known of the settings of an agent, whose structs are in its own module."""
    if kind is object:
        return {"description": "as eddy-agent describe tells"}
    raise NotImplementedError
