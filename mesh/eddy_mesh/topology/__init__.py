"""The topology of a backplane: manifest, placement, changes, record, and how a change is carried out.

Pure, but for `keeping`, which awaits the store: who asks the host processes is `eddy_agents.backplane_manager`.

* `manifest`: what a person writes, checked by `checks`.
* `placement`: what each host process runs, compiled from a manifest and the hosts that there are (`presence`).
* `changes`: what differs between two placements, for people and as JSON.
* `record`, `transitions`, `keeping`: what is of record, who may change it when, and where it lies.
* `planning`: from a request to the change that is to be of record.
* `steps`, `carrying`, `health`, `telling`: which host process is told what and when, whether agents do well, and what
  is said of it all.
* `schema`: JSON Schema for editors.

Decided in ``docs/decisions/0005-live-topology.md``.
"""
