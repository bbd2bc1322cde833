"""Names that others gave to numbers: NetFlow and IPFIX information elements, IP protocols.

What may live here: tables as text (``*.tsv``, one header line, tab-separated) and one small pure loader for each.
A table holds facts of a public registry and nothing that this project decided, except its ``ecs`` column: the Elastic
Common Schema field that carries the same thing.

``ipfix.tsv`` has one line for each element: enterprise number (0: IANA, and raw NetFlow v9 numbers above IANA's
range), element number, name, abstract data type, unit, semantics, ECS field. ``tools/make-ipfix-table`` renews its IANA
lines; the lines of enterprises and the ``ecs`` column are kept by hand.
"""
