"""The topology of a backplane: manifest, placement, changes and record. Pure: who carries it out is elsewhere.

* `manifest`: what a person writes, checked by `checks`.
* `placement`: what each host process runs, compiled from a manifest and the hosts that there are.
* `changes`: what differs between two placements, for people and as JSON.
* `steps`: in which order host processes are told.
* `record`: the store of record, and who may change it when.
* `schema`: JSON Schema for editors.

Decided in ``docs/decisions/0005-live-topology.md``.
"""
