"""The part of HTTP/1.1 that a small server needs to take in a POST: request heads, body framing, answers.

What may live here: bytes to `Head`, how long its body is, and the bytes of an answer. Pure: who reads and writes is
in the source. What is refused is refused with the status that the peer shall get, never by guessing: a request with
two lengths is how requests are smuggled.

Source: RFC 9112 (HTTP/1.1) sections 2 to 7, RFC 9110 (semantics) section 15.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from eddy_mesh.errors import WireError

MAX_HEAD_BYTES = 16 * 1024
"""Longest request line and header fields together."""

HEAD_END = b"\r\n\r\n"
CHUNKED = -1
"""As a body's length: it comes in chunks."""

_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP/1\.([01])")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")


class HttpError(WireError):
    """A request that can not be served.

    Attributes:
        status: what the peer is answered.
    """

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__("http", message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body.

    Attributes:
        method: upper case by convention, compared exactly.
        path: of the target, without query.
        fields: header fields by lower-case name; of one that comes again the values are joined with ", ".
        keeps_alive: whether the connection serves another request after this one.
    """

    method: str
    path: str
    fields: Mapping[str, str]
    keeps_alive: bool

    @property
    def media_type(self) -> str:
        """Media type of the body, lower case, without parameters; "" where none is given."""
        return self.fields.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a word before it sends the body (RFC 9110 section 10.1.1)."""
        return self.fields.get("expect", "").lower() == "100-continue"


def parse_head(data: bytes) -> Head:
    """Return the head of a request.

    Args:
        data: up to and without the empty line.

    Raises:
        HttpError: it is none, or one of a version that is not served.
    """
    line, *rest = data.decode("latin-1").lstrip("\r\n").split("\r\n")
    matched = _REQUEST_LINE.fullmatch(line)
    if matched is None:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"{line[:80]!r} is not an HTTP/1.1 request line")
    method, target, minor = matched.groups()
    fields: dict[str, str] = {}
    for text in rest:
        field = _FIELD.fullmatch(text)
        if field is None:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"{text[:80]!r} is not a header field")
        name = field[1].lower()
        fields[name] = f"{fields[name]}, {field[2]}" if name in fields else field[2]
    if minor == "1" and "host" not in fields:
        raise HttpError(HTTPStatus.BAD_REQUEST, "the host header field is missing")
    options = {option.strip().lower() for option in fields.get("connection", "").split(",")}
    keeps_alive = "close" not in options if minor == "1" else "keep-alive" in options
    return Head(method, target.partition("?")[0], fields, keeps_alive)


def body_bytes(head: Head, max_bytes: int) -> int:
    """Return the length of a request's body, `CHUNKED` when only its end will tell.

    Args:
        head: of the request.
        max_bytes: longest body that is taken.

    Raises:
        HttpError: the length is missing, too large, or said in two ways.

    Source: RFC 9112 section 6.3.
    """
    encoding, length = head.fields.get("transfer-encoding"), head.fields.get("content-length")
    if encoding is not None:
        if length is not None:
            raise HttpError(HTTPStatus.BAD_REQUEST, "content-length and transfer-encoding: give one of them")
        if encoding.strip().lower() != "chunked":
            raise HttpError(HTTPStatus.NOT_IMPLEMENTED, f"transfer-encoding {encoding[:40]!r}: only chunked is known")
        return CHUNKED
    if length is None:
        raise HttpError(HTTPStatus.LENGTH_REQUIRED, "the content-length header field is missing")
    if not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"content-length {length[:40]!r} is not a number")
    if int(length) > max_bytes:
        raise HttpError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of {length} bytes: at most {max_bytes} are taken, send less"
        )
    return int(length)


def chunk_bytes(line: bytes) -> int:
    """Return the size that a chunk's first line says; 0 for the last chunk.

    Raises:
        HttpError: the line is none.

    Source: RFC 9112 section 7.1.
    """
    matched = _CHUNK_SIZE.fullmatch(line)
    if matched is None:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"{line[:40]!r} is not a chunk size")
    return int(matched[1], 16)


def answer(status: HTTPStatus, body: bytes, *, keeps_alive: bool, fields: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of an answer with a JSON body.

    Args:
        status: of the answer.
        body: JSON.
        keeps_alive: whether the connection serves another request.
        fields: further header fields.
    """
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"connection: {'keep-alive' if keeps_alive else 'close'}",
        *(f"{name}: {value}" for name, value in (fields or {}).items()),
    ]
    return "\r\n".join(lines).encode("latin-1") + HEAD_END + body
