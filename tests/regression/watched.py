"""Jobs that must not hang."""

from __future__ import annotations

__all__ = ["finished"]


def finished(env, within_s=300.0):
    """The result of a job; one that hangs is ended, and fails the test. Raises what the job raises."""
    with env.submit() as job:
        assert job.wait(within_s).is_final, f"the job hangs: {job.metrics()}"
        return job.result()
