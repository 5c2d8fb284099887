"""A model behind a service with `@batched`, against the same model behind Ray Serve with `@serve.batch`.

python -m benchmarks.serving                        five rounds of each; needs pip install 'ray[serve]'
python -m benchmarks.serving --rounds 3 --write     three, into the table of benchmarks/README.md

Both run on one Ray, one replica each, and predict the same rows with the same model of scikit-learn. "Inside" is one
actor with 256 requests in flight: batches of at most 32 that wait for 5 ms. "HTTP" is one client that keeps its
connection and waits for each reply; batches do not wait, because nobody else would come. Sides take turns, and the
ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.calls import calls_in_flight
from benchmarks.ray_cluster import start_ray, wait_until
from benchmarks.table import replaced
from benchmarks.timing import one_by_one
from operators.flowers import load_model
from operators.waiting import Waiting
from sage_flow import RemoteEnvironment, RuntimeContext, Service, batched

__all__ = ["Serving", "main", "row", "table"]

IN_FLIGHT = 256
BATCH = 32
WAIT_S = 0.005
RATE_BAR = 15.0
HTTP_BAR = 0.5
BEGIN, END = "<!-- serving: begin -->", "<!-- serving: end -->"
_PAGE = Path(__file__).with_name("README.md")
_ROWS = 150


class Serving(NamedTuple):
    """Of one side in one round: requests per second, or seconds of a request."""

    serve: float
    ours: float


def predicted(model: Any, numbers: list[int]) -> list[int]:
    """What both sides do: predict a row for each number, and reply by the number, which tells replies apart."""
    model.predict([[5.0 + number % _ROWS / 100, 3.0, 4.0, 1.0] for number in numbers])
    return numbers


class Predictor(Service):
    """Our side."""

    def open(self, ctx: RuntimeContext) -> None:
        self._model = load_model()

    @batched(max_size=BATCH, max_wait=timedelta(seconds=WAIT_S))
    def process(self, numbers: list[int]) -> list[int]:
        return predicted(self._model, numbers)

    @batched(max_size=BATCH, max_wait=timedelta(0))
    def at_once(self, numbers: list[int]) -> list[int]:
        return predicted(self._model, numbers)


def our_rate(size: int) -> float:
    """Requests per second of an operator of a job on Ray."""
    env = RemoteEnvironment("rate")
    env.register_service("predictor", Predictor)

    def call(size: int, ctx: RuntimeContext) -> float:
        return calls_in_flight(IN_FLIGHT)(ctx.service("predictor"), size, time.process_time).per_s

    env.from_collection([size]).map(call).collect("rate")
    rate: float = env.execute(progress=False).collected["rate"][0]
    return rate


@contextmanager
def our_server() -> Iterator[tuple[int, str]]:
    """The port and the path of a service of a job on Ray."""
    env = RemoteEnvironment("serving")
    env.register_service("predictor", Predictor)
    env.from_source(Waiting()).for_each(str)
    with env.submit() as job:
        wait_until(lambda: job.status == "RUNNING")
        with job.serve_http("predictor") as served:
            yield served.port, "/at_once"


# -- Ray Serve ------------------------------------------------------------------------------------------------


@contextmanager
def deployed() -> Iterator[tuple[int, str]]:
    """The same model as an application of Ray Serve; the port and the path of its proxy."""
    from ray import serve

    @serve.deployment(max_ongoing_requests=2 * IN_FLIGHT, ray_actor_options={"num_cpus": 0.1})
    class Deployed:
        def __init__(self) -> None:
            self._model = load_model()

        @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_S)
        async def _batch(self, numbers: list[int]) -> list[int]:
            return predicted(self._model, numbers)

        @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0)
        async def _batch_at_once(self, numbers: list[int]) -> list[int]:
            return predicted(self._model, numbers)

        async def process(self, number: int) -> int:
            return await self._batch(number)  # type: ignore[arg-type, return-value]

        async def __call__(self, request: Any) -> int:
            return await self._batch_at_once(await request.json())  # type: ignore[no-any-return]

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Deployed.bind(), name="predictor")
    try:
        yield port, "/"
    finally:
        serve.shutdown()


class ServeCaller:
    """An actor that asks the application."""

    async def rate(self, size: int) -> float:
        import asyncio

        from ray import serve

        handle = serve.get_app_handle("predictor")
        places = asyncio.Semaphore(IN_FLIGHT)
        total = 0

        async def ask(number: int) -> None:
            nonlocal total
            async with places:
                reply = await handle.process.remote(number)
                total += reply

        await asyncio.gather(*(ask(number) for number in range(size // 10)))
        total, began = 0, time.perf_counter()
        await asyncio.gather(*(ask(number) for number in range(size)))
        seconds = time.perf_counter() - began
        if total != size * (size - 1) // 2:
            raise RuntimeError("Ray Serve did not give the replies")
        return size / seconds


def serve_rate(caller: Any, size: int) -> float:
    """Requests per second of an actor."""
    import ray

    rate: float = ray.get(caller.rate.remote(size))
    return rate


# -- both -----------------------------------------------------------------------------------------------------


def http_s(port: int, path: str, size: int) -> float:
    """Median seconds of a request of one client."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json"}

    def call(number: int) -> int:
        connection.request("POST", path, json.dumps(number), headers)
        reply = connection.getresponse()
        return int(reply.read())

    try:
        return one_by_one(call, size).wall_s
    finally:
        connection.close()


def measured(rounds: int, calls: int, serve_calls: int, requests: int) -> tuple[list[Serving], list[Serving]]:
    """Return the rates from inside and the times by HTTP, of each round."""
    import ray

    start_ray()
    rates, times = [], []
    with deployed() as proxy, our_server() as server:
        caller = ray.remote(num_cpus=0.1)(ServeCaller).remote()
        for _ in range(rounds):
            rates.append(Serving(serve_rate(caller, serve_calls), our_rate(calls)))
            times.append(Serving(http_s(*proxy, requests), http_s(*server, requests)))
    return rates, times


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table. See the text of this module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help=f"into {_PAGE.name}")
    arguments = parser.parse_args(argv)
    rates, times = measured(arguments.rounds, 20_000, 2_000, 300)
    told = table(
        [
            row(f"requests/s from inside, {IN_FLIGHT} in flight", rates, _per_s, RATE_BAR, more_is_better=True),
            row("HTTP, one client, median", times, _ms, HTTP_BAR, more_is_better=False),
        ]
    )
    print(told)
    if arguments.write:
        page = replaced(_PAGE.read_text(encoding="utf-8"), f"{told}\n", BEGIN, END)
        _PAGE.write_text(page, encoding="utf-8")


def row(what: str, found: Sequence[Serving], shown: Callable[[float], str], bar: float, *, more_is_better: bool) -> str:
    """Return a line of the table. The bar is for the quotient of the medians."""
    serve, ours = (statistics.median(side) for side in zip(*found, strict=True))
    ratio = ours / serve
    is_met = ratio >= bar if more_is_better else ratio <= bar
    told = f"{'≥' if more_is_better else '≤'} {bar:g}: {'met' if is_met else 'missed'}"
    return f"| {what} | {shown(serve)} | {shown(ours)} | **{ratio:.3g}** | {told} |"


def table(rows: Sequence[str]) -> str:
    """Return the rows under their heading."""
    return "\n".join(["| | Ray Serve | sage_flow | ratio | bar |", "|---|---|---|---|---|", *rows])


def _per_s(rate: float) -> str:
    return f"{rate:,.0f}/s"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


if __name__ == "__main__":
    main()
