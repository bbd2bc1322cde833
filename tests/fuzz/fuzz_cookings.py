"""Any payload for any cooking, NetFlow and syslog among them: a result whose events can be sent; never an exception.

The first byte chooses the cooking. Payloads are arbitrary bytes, or an example of the cooking with some bytes changed,
so that templates, lengths and checks behind a valid header are reached.
"""

from __future__ import annotations

import sys

import atheris
import numpy as np

with atheris.instrument_imports(include=["eddy_mesh", "eddy_agents"]):
    from eddy_agents.reworking.passing import BY_STATEMENT
    from eddy_mesh import codec, discovery
    from eddy_mesh.actor.numbering import Numbering
    from eddy_mesh.agent import Draft
    from eddy_mesh.batch import Batch, Kind
    from eddy_mesh.cer import EventClass, Stage
    from eddy_mesh.columns import Bytes, Column, Constant, Numbers, pack

    EVERY = [discovery.part_module("transformer", name) for name in discovery.part_names("transformer")]
    COOKINGS = [module for module in EVERY if module.INPUT != BY_STATEMENT]  # those take events, not payloads

NOW_NS = 1_793_700_000_000_000_000
MAX_PAYLOADS = 4
MAX_CHANGES = 8


def one_input(data: bytes) -> None:
    """Give some payloads to one cooking, in one batch and with the state that they leave behind."""
    chosen = atheris.FuzzedDataProvider(data)
    module = COOKINGS[chosen.ConsumeIntInRange(0, len(COOKINGS) - 1)]
    raw_type = module.INPUT[chosen.ConsumeIntInRange(0, len(module.INPUT) - 1)]
    given = [payload for example in module.EXAMPLES for payload in example.given]
    cooking = module.Cooking(module.Config())
    numbering = Numbering("fuzz/host/in", "host", 1_793_600_000)
    for _ in range(chosen.ConsumeIntInRange(1, 2)):
        count = chosen.ConsumeIntInRange(1, MAX_PAYLOADS)
        payloads = [payload(chosen, given) for _ in range(count)]
        result = cooking.on_batch(raw_batch(raw_type, payloads, numbering), NOW_NS)
        for output in (*result.outputs, *cooking.on_tick(NOW_NS).outputs):
            batch = output if isinstance(output, Batch) else numbering.number(output, NOW_NS)
            codec.decode(codec.encode(batch), batch.kind, batch.origin)


def payload(chosen: atheris.FuzzedDataProvider, given: list[bytes]) -> bytes:
    """Return arbitrary bytes, or an example that was cut and changed."""
    if chosen.ConsumeBool():
        return bytes(chosen.ConsumeBytes(chosen.ConsumeIntInRange(0, 512)))
    held = bytearray(given[chosen.ConsumeIntInRange(0, len(given) - 1)])
    for _ in range(chosen.ConsumeIntInRange(0, MAX_CHANGES)):
        held[chosen.ConsumeIntInRange(0, len(held) - 1)] = chosen.ConsumeIntInRange(0, 255)
    return bytes(held[: chosen.ConsumeIntInRange(0, len(held))]) if chosen.ConsumeBool() else bytes(held)


def raw_batch(raw_type: str, payloads: list[bytes], numbering: Numbering) -> Batch:
    """Return raw events of payloads."""
    count = len(payloads)
    columns: dict[str, Column] = {
        "event.original": Bytes(*pack(payloads)),
        "raw.media_type": Constant("application/octet-stream", count),
        "observed": Numbers(np.full(count, NOW_NS, np.int64)),
        "host_address": Constant("192.0.2.254", count),
    }
    return numbering.number(Draft(Kind(Stage.RAW, EventClass.NETWORK, raw_type), count, columns), NOW_NS)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
