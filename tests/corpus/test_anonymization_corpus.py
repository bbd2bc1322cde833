"""The official Crypto-PAn sample and the ipcrypt vectors."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from eddy_agents.anonymization import ipcrypt
from eddy_agents.anonymization.apply import Anonymizer
from eddy_agents.anonymization.crypto_pan import CryptoPan
from eddy_agents.anonymization.keys import Epoch, KeyRing
from eddy_agents.anonymization.policy import Config
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Addresses, address_halves, address_text

pytestmark = pytest.mark.corpus

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "packet")


def _key(corpus: Path) -> bytes:
    return bytes(msgspec.json.decode((corpus / "anonymization/cryptopan/key.json").read_bytes())["key_bytes"])


def _trace(corpus: Path, name: str) -> npt.NDArray[np.unsignedinteger]:
    files = sorted((corpus / "anonymization/cryptopan").glob(f"sample_trace_{name}_part*.dat"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return np.array([int(IPv4Address(line.split()[2])) for line in lines], ">u4")


def test_official_sample_trace(corpus: Path) -> None:
    """Every address of the official sample has the official result, computed and remembered."""
    raw, expected = _trace(corpus, "raw"), _trace(corpus, "sanitized")
    cipher = CryptoPan(_key(corpus))
    assert len(raw) >= 50
    assert cipher.v4(raw).tolist() == expected.tolist()
    assert cipher.v4(raw).tolist() == expected.tolist()


def test_official_sample_through_the_agent(corpus: Path) -> None:
    """The agent gives the same results, also where a column holds IPv4 addresses in 16 bytes."""
    raw, expected = _trace(corpus, "raw"), _trace(corpus, "sanitized")
    agent = Anonymizer(Config(), KeyRing([Epoch(1, 0, _key(corpus))]))
    for column in (Addresses(raw), Addresses(raw).wide()):
        batch = Batch(KIND, "host", Producer(1, 1), 0, 1, len(raw), {"source.ip": column})
        made = agent.on_batch(batch, 10).outputs[0]
        texts = [made.columns["source.ip"].at(row) for row in range(made.count)]
        assert texts == [str(IPv4Address(int(number))) for number in expected]


@pytest.mark.parametrize("variant", ["ipcrypt-deterministic", "ipcrypt-pfx"])
def test_ipcrypt_vectors(corpus: Path, variant: str) -> None:
    """Every vector of the two deterministic variants of the draft has its result."""
    vectors = msgspec.json.decode((corpus / "anonymization/ipcrypt/test_vectors.json").read_bytes())
    mine = [vector for vector in vectors if vector["variant"] == variant]
    assert mine
    cipher = ipcrypt.pfx if variant == "ipcrypt-pfx" else ipcrypt.deterministic
    for vector in mine:
        plain = np.array([address_halves(vector["ip"])], ">u8")
        (result,) = cipher(bytes.fromhex(vector["key"]), plain).tolist()
        assert address_text(*result) == vector["encrypted_ip"], vector
