"""Fixtures and settings of the project's own tests."""

import signal

from hypothesis import settings
from ray_cluster import ray_cluster
from ray_marker import pytest_collection_modifyitems
from ray_modes import mode, pytest_addoption, pytest_generate_tests, ray_pool

__all__ = [
    "mode",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_generate_tests",
    "ray_cluster",
    "ray_pool",
]

settings.register_profile("sage_flow", deadline=None)  # a machine may be busy: time is measured in benchmarks
settings.load_profile("sage_flow")

# What a shell starts in the background ignores Ctrl-C, and what nohup starts SIGHUP; so would the programs of tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
