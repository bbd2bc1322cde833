"""Laws of Crypto-PAn: prefix preservation, injectivity, and one result however it is asked for."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_agents.anonymization.crypto_pan import CryptoPan

KEY = bytes(range(32))
CIPHER = CryptoPan(KEY)
V4 = st.integers(0, 2**32 - 1)
V6 = st.integers(0, 2**128 - 1)


def _v4(numbers: list[int], cipher: CryptoPan = CIPHER) -> list[int]:
    return [int(number) for number in cipher.v4(np.array(numbers, ">u4"))]


def _v6(numbers: list[int], cipher: CryptoPan = CIPHER) -> list[int]:
    halves = np.array([[number >> 64, number & 2**64 - 1] for number in numbers], ">u8")
    return [int(high) << 64 | int(low) for high, low in cipher.v6(halves)]


def _shared(a: int, b: int, bits: int) -> int:
    return bits - (a ^ b).bit_length()


@st.composite
def _neighbours(draw: st.DrawFn, bits: int) -> tuple[int, int]:
    """Two addresses that share a prefix of any length."""
    first = draw(st.integers(0, 2**bits - 1))
    return first, first ^ draw(st.integers(0, 2 ** draw(st.integers(0, bits)) - 1))


@settings(max_examples=150)
@given(_neighbours(32), _neighbours(128))
def test_prefixes_are_preserved(v4: tuple[int, int], v6: tuple[int, int]) -> None:
    """Results share exactly as many leading bits as the addresses do."""
    first, second = _v4(list(v4))
    assert _shared(first, second, 32) == _shared(*v4, 32)
    first, second = _v6(list(v6))
    assert _shared(first, second, 128) == _shared(*v6, 128)


@settings(max_examples=50)
@given(st.lists(V4, min_size=1, max_size=50, unique=True), st.lists(V6, min_size=1, max_size=20, unique=True))
def test_different_addresses_stay_different(v4: list[int], v6: list[int]) -> None:
    """No two addresses have the same result."""
    assert len(set(_v4(v4))) == len(v4)
    assert len(set(_v6(v6))) == len(v6)


@settings(max_examples=30)
@given(st.lists(V4, min_size=1, max_size=40), st.lists(V6, min_size=1, max_size=20))
def test_result_does_not_depend_on_company_or_memory(v4: list[int], v6: list[int]) -> None:
    """An address has one result: alone, in a column with repeats, from an empty cache or a full one."""
    fresh = CryptoPan(KEY)
    assert _v4(v4, fresh) == [_v4([number])[0] for number in v4] == _v4(v4, fresh)
    assert _v6(v6, fresh) == [_v6([number])[0] for number in v6] == _v6(v6, fresh)


def test_more_addresses_than_the_cache_holds() -> None:
    """Displaced results are computed again, and come out the same."""
    numbers = np.arange(0, 2**32, 2**32 // 100_000, dtype=np.uint32)
    cipher = CryptoPan(KEY)
    first = cipher.v4(numbers)
    assert len(np.unique(first)) == len(numbers)
    assert np.array_equal(cipher.v4(numbers), first)
    assert first[777] == _v4([int(numbers[777])])[0]
