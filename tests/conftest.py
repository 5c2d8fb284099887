"""Fixtures of the project's own tests."""

from sage_flow.testing import mode

__all__ = ["mode"]
