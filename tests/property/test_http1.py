"""Laws of request parsing: any bytes give a request or an `HttpError`."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from eddy_agents.normalizers.http import split_body
from eddy_agents.wire import http1
from eddy_agents.wire.http1 import HttpError

FIELDS = st.lists(
    st.tuples(
        st.sampled_from(["Host", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "X"]),
        st.sampled_from(["", "x", "0", "12", "-1", "9" * 30, "chunked", "close", "100-continue", "a, b"]) | st.text(),
    )
)


@given(data=st.binary(max_size=300))
def test_any_bytes_give_a_head_or_an_error(data: bytes) -> None:
    """No bytes make the parsers raise anything else."""
    with suppress(HttpError):
        http1.body_bytes(http1.parse_head(data), 100)
    with suppress(HttpError):
        assert http1.chunk_bytes(data) >= 0


@given(fields=FIELDS, minor=st.sampled_from("01"))
def test_any_fields_give_a_length_within_the_limit(fields: list[tuple[str, str]], minor: str) -> None:
    """A request that is taken has one length, and it is not above the limit."""
    lines = [f"POST /events HTTP/1.{minor}", *(f"{name}: {value}" for name, value in fields)]
    with suppress(HttpError):
        head = http1.parse_head("\r\n".join(lines).encode("latin-1", "replace"))
        length = http1.body_bytes(head, 20)
        assert length == http1.CHUNKED or 0 <= length <= 20
        assert (length == http1.CHUNKED) == ("content-length" not in head.fields)


@given(body=st.binary(max_size=200), media_type=st.sampled_from(["", "application/json", "text/plain"]))
def test_any_body_gives_payloads_or_an_error(body: bytes, media_type: str) -> None:
    """A body is split into payloads that are in it, or refused."""
    with suppress(HttpError):
        payloads, _ = split_body(body, media_type)
        assert all(payloads.bytes_at(row) in body for row in range(len(payloads)))
