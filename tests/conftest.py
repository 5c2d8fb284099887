"""Fixtures and settings of the project's own tests."""

from hypothesis import settings

from sage_flow.testing import mode

__all__ = ["mode"]

settings.register_profile("sage_flow", deadline=None)  # a machine may be busy: time is measured in benchmarks
settings.load_profile("sage_flow")
