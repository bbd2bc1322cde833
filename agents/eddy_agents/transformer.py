"""Transformer: turns raw events into cooked ones with named fields, or events into other events.

In: the raw events of this host process that its cooking names.
Out: ``<backplane>.event.cooked.<class>.<type>.<origin>``.
How it does so is its *cooking*, one file each in ``eddy_agents/transformers``.
"""

from __future__ import annotations

SCOPE = "host"
EMIT = "demand"
