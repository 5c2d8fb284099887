"""The queues whose contents are in this process, for commands that inspect it from outside."""

from __future__ import annotations

from typing import Any

from sage_flow.queues.channel import owned_channels
from sage_flow.queues.host import hosts_here

__all__ = ["queues_here"]


def queues_here() -> list[dict[str, Any]]:
    """Return the statistics of each queue, with its `kind`, `host`, `scope` and `channel_id` before them."""
    found = []
    for channel, live in owned_channels():
        kind, *place, scope, channel_id = channel.key
        names = {"kind": kind, "host": f"process {place[0]}", "scope": scope, "channel_id": channel_id}
        found.append({**names, **live.statistics()})
    for host in hosts_here():
        for (scope, channel_id), told in host.statistics()["queues"].items():
            names = {"kind": "hosted", "host": str(host.address), "scope": scope, "channel_id": channel_id}
            found.append({**names, **told})
    return found
