"""Analysis: finds out what happened and says how it knows: analyzed events that point at their evidence.

In: the cooked events of the whole backplane that its detector asks for. Out:
``<backplane>.event.analyzed.<class>.<type>.<origin>``, always published. What it looks for is its *detector*, one file
each in ``eddy_agents/analyses``.
"""

from __future__ import annotations

SCOPE = "backplane"
EMIT = "always"
