"""JSON objects from the bus: decoded, or a `WireError`.

What may live here: the one way in which the mesh reads JSON that somebody else sent.
"""

from __future__ import annotations

import msgspec

from eddy_mesh.errors import WireError

_decoder = msgspec.json.Decoder(dict[str, object])


def decode_object(data: bytes, source: str) -> dict[str, object]:
    """Return one JSON object; no bytes are an empty one.

    Args:
        data: as received.
        source: who reads it, for the message.

    Raises:
        WireError: not a JSON object.
    """
    try:
        return _decoder.decode(data or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(source, f"not a JSON object ({error})") from None
