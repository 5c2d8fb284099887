"""Services that answer in batches, importable in every process."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from sage_flow import Service, batched

__all__ = ["Batching", "BatchingLater", "Doubler"]

SOON = timedelta(milliseconds=5)
LATE = timedelta(hours=1)


class Doubler(Service):
    @batched(max_size=4, max_wait=SOON)
    def double(self, numbers):
        return [2 * number for number in numbers]


class Batching(Service):
    """Tells in what batches it was called."""

    def open(self, ctx):
        self.ctx = ctx

    @batched(max_size=4, max_wait=LATE)
    def whole(self, values):
        return [(value, list(values)) for value in values]

    @batched(max_size=32, max_wait=SOON)
    def soon(self, values):
        return [(value, list(values)) for value in values]

    @batched(max_size=3, max_wait=LATE)
    def inverse(self, values):
        return [1 / value if value else ZeroDivisionError(f"no inverse of {value}") for value in values]

    @batched(max_size=2, max_wait=LATE)
    def fail(self, values):
        raise ValueError(f"no {values}")

    @batched(max_size=3, max_wait=LATE)
    def too_few(self, values):
        return values[1:]

    @batched(max_size=1)
    def no_list(self, values):
        return {"a": 1}

    @batched(max_size=2, max_wait=LATE)
    def ask(self, values):
        return [self.ctx.service("doubler").double(value) for value in values]

    def plain(self, value):
        return value


class BatchingLater(Service):
    @batched(max_size=4, max_wait=SOON)
    async def double(self, numbers):
        await asyncio.sleep(0)
        return [2 * number if number >= 0 else ValueError(f"{number} is negative") for number in numbers]
