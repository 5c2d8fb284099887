"""Services that take their time, importable in every process."""

from __future__ import annotations

import asyncio

from sage_flow import Service

__all__ = ["Adder", "Awaiting", "Gate", "Keeper", "Mixed"]


class Adder(Service):
    def add(self, number, more=1):
        return number + more

    def fail(self, number):
        raise ValueError(f"no {number}")


class Keeper(Service):
    """Counts per key what it was told: right only if a key's calls reach one replica."""

    def open(self, ctx):
        self.seen = {}
        self.index = ctx.subtask_index

    def note(self, key):
        self.seen[key] = self.seen.get(key, 0) + 1
        return self.seen[key], self.index


class Awaiting(Service):
    """Methods are coroutines; `most` is how many ran at the same time."""

    def open(self, ctx):
        self.ctx = ctx
        self.running = self.most = 0

    async def work(self, number):
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.001 * (number % 3))
        self.running -= 1
        return 2 * number

    async def ask(self, number):
        return await self.ctx.service("adder").add.remote(number, more=100)

    async def fail(self, number):
        raise ValueError(f"no {number}")

    async def how_many(self):
        return self.most


class Mixed(Service):
    async def later(self, number):
        await asyncio.sleep(0)
        return number, "later"

    def now(self, number):
        return number, "now"


class Gate(Service):
    """`wait` comes back only when somebody else has called `open_it`."""

    def open(self, ctx):
        self.is_open = asyncio.Event()

    async def wait(self):
        await self.is_open.wait()
        return "through"

    async def open_it(self):
        self.is_open.set()
        return "opened"
