"""Templates of NetFlow v9 and IPFIX: which fields the records of a data set have, in which order and length.

What may live here: reading template sets and options template sets into `Template`. No state.

Source: RFC 3954 sections 5.2 and 6.1; RFC 7011 sections 3.2, 3.4 and 8.1.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from eddy_agents.wire.netflow_datagram import (
    FIRST_DATA_SET,
    IPFIX_OPTIONS_TEMPLATES,
    IPFIX_TEMPLATES,
    V9_OPTIONS_TEMPLATES,
    Buffer,
    Malformed,
)

VARIABLE: Final = 0xFFFF
"""Length of a field whose records each carry their own. Source: RFC 7011 section 7."""

MAX_FIELDS: Final = 512
"""Most fields of a template; the largest seen in practice have about 60. A longer one is refused."""

_PAIR = Struct(">HH")
_TRIPLE = Struct(">HHH")
_ENTERPRISE = Struct(">I")
_ENTERPRISE_BIT: Final = 0x8000


class FieldSpec(NamedTuple):
    """One field of a template.

    Attributes:
        enterprise: private enterprise number, 0 where there is none.
        id: element number without the enterprise bit; in v9 the whole field type, or the scope type of a scope.
        length: octets, or `VARIABLE`.
        is_scope: whether it says what an options record is about.
    """

    enterprise: int
    id: int
    length: int
    is_scope: bool = False


class Template(NamedTuple):
    """One template, or the withdrawal of one.

    Attributes:
        id: 256-65535; in a withdrawal also 2 or 3, which mean all templates or all options templates.
        fields: in the order of the record; empty for a withdrawal.
        is_options: whether its records are about the exporter and not flows.
    """

    id: int
    fields: tuple[FieldSpec, ...]
    is_options: bool


def read_templates(set_id: int, data: Buffer, start: int, end: int) -> tuple[list[Template], Malformed | None]:
    """Read the templates of one set.

    Args:
        set_id: 0 or 1 (v9), 2 or 3 (IPFIX).
        data: what holds the datagram.
        start: offset of the first octet of the set's content.
        end: offset after the last.

    Returns:
        Every whole template in order, and what stopped the reader, None where nothing did.
    """
    templates: list[Template] = []
    try:
        while end - start >= _PAIR.size:
            first, second = _PAIR.unpack_from(data, start)
            if first == 0 and second == 0:
                break  # padding
            template, start = _read_template(set_id, data, start, end)
            templates.append(template)
    except Malformed as defect:
        return templates, defect
    return templates, None


def _read_template(set_id: int, data: Buffer, start: int, end: int) -> tuple[Template, int]:
    template_id, count = _PAIR.unpack_from(data, start)
    is_options = set_id in {V9_OPTIONS_TEMPLATES, IPFIX_OPTIONS_TEMPLATES}
    is_ipfix = set_id >= IPFIX_TEMPLATES
    if is_ipfix and count == 0 and (template_id >= FIRST_DATA_SET or template_id == set_id):
        return Template(template_id, (), is_options), start + _PAIR.size
    if template_id < FIRST_DATA_SET:
        raise Malformed("bad_template", f"template id {template_id} is below {FIRST_DATA_SET}", start)
    begin, scopes = start + _PAIR.size, 0
    if is_options:
        if end - start < _TRIPLE.size:
            raise Malformed("bad_template", f"options template {template_id} is cut", start)
        _, first, second = _TRIPLE.unpack_from(data, start)
        # v9 gives octets of scope and of option fields, IPFIX the number of all fields and of scopes among them
        count, scopes = (first, second) if is_ipfix else (first // 4 + second // 4, first // 4)
        begin = start + _TRIPLE.size
    if not 1 <= count <= MAX_FIELDS or scopes > count:
        raise Malformed("bad_template", f"template {template_id} of {count} fields, {scopes} of them scopes", start)
    fields, stop = _read_fields(data, begin, end, count, scopes, is_ipfix=is_ipfix)
    if not any(field.length for field in fields):
        raise Malformed("bad_template", f"records of template {template_id} would be empty", start)
    return Template(template_id, fields, is_options), stop


def _read_fields(
    data: Buffer, start: int, end: int, count: int, scopes: int, *, is_ipfix: bool
) -> tuple[tuple[FieldSpec, ...], int]:
    fields = []
    for number in range(count):
        if end - start < _PAIR.size:
            raise Malformed("bad_template", f"a template ends after {number} of {count} fields", start)
        field_id, length = _PAIR.unpack_from(data, start)
        start += _PAIR.size
        enterprise = 0
        if is_ipfix and field_id & _ENTERPRISE_BIT:
            if end - start < _ENTERPRISE.size:
                raise Malformed("bad_template", f"field {number} of a template has no enterprise number", start)
            (enterprise,) = _ENTERPRISE.unpack_from(data, start)
            field_id &= ~_ENTERPRISE_BIT
            start += _ENTERPRISE.size
        if length == VARIABLE and not is_ipfix:
            raise Malformed("bad_template", f"field {field_id} of 65535 octets: v9 has no variable lengths", start)
        fields.append(FieldSpec(enterprise, field_id, length, number < scopes))
    return tuple(fields), start
