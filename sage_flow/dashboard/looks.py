"""What is known of a job at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_flow.executors.execution import no_metrics, no_statistics
from sage_flow.runtime.coordinator import JobStatus

__all__ = ["JobLook"]


@dataclass(frozen=True)
class JobLook:
    """A job as its page shows it.

    `key`: what it is found by. `where`: the process, or the id on the cluster. `metrics` and `statistics`: as
    `JobHandle` has them; of a job that is over, the last ones. `failure`: what failed. `stops`: whether it can end
    with a last checkpoint. `notes`: what else there is to say. `nodes`: where the subtasks are, by name.
    """

    key: str
    name: str
    status: str
    where: str
    metrics: Mapping[str, Any] = field(default_factory=lambda: no_metrics({}))
    statistics: Mapping[str, Any] = field(default_factory=no_statistics)
    failure: str = ""
    stops: bool = False
    notes: tuple[str, ...] = ()
    nodes: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.status == "GONE" or JobStatus(self.status).is_final
