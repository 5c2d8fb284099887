"""Fixtures and settings of the project's own tests."""

from hypothesis import settings
from ray_cluster import ray_cluster

from sage_flow.testing import mode

__all__ = ["mode", "ray_cluster"]

settings.register_profile("sage_flow", deadline=None)  # a machine may be busy: time is measured in benchmarks
settings.load_profile("sage_flow")
