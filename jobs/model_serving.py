"""A model of scikit-learn as a service: it predicts the rows of a CSV file, and answers programs by HTTP meanwhile.

sage-flow run jobs/model_serving.py
sage-flow run jobs/model_serving.py --option port=8000 --option stays=true
curl http://127.0.0.1:8000/classify -H 'Content-Type: application/json' \
    -d '{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}'
"""

from __future__ import annotations

if __name__ == "__main__":  # python jobs/model_serving.py = sage-flow run jobs/model_serving.py
    from sage_flow.cli import run_file

    raise SystemExit(run_file(__file__))

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.flowers import MEASURES, FlowerClassifier, Prediction, check_installed
from operators.waiting import Waiting
from sage_flow import Environment, JobHandle, JobResult, RuntimeContext, ServiceFuture

_FLOWERS = Path(__file__).with_name("flowers.csv")


@dataclass(frozen=True)
class Options:
    """What --option sets.

    Attributes:
        flowers: a CSV file with a flower in each row; by default those that the model was not trained with.
        out: a CSV file for the predictions; without it they are only counted.
        port: answer programs by HTTP at this port of this machine; 0: any free one. The token, if they need one, is
            that in the environment variable MODEL_TOKEN.
        stays: after the last row, go on answering until the job is drained (Ctrl-C).
    """

    flowers: Path = _FLOWERS
    out: Path | None = None
    port: int | None = None
    stays: bool = False

    def __post_init__(self) -> None:
        if self.port is not None and not 0 <= self.port < 65536:
            raise ValueError(f"port must be from 0 to 65535, not {self.port}")
        if self.stays and self.port is None:
            raise ValueError("stays=true is for programs that call by HTTP: give a port, too")


def build(env: Environment, options: Options) -> None:
    """Write the pipeline: the rows of the file ask the service, many at a time."""
    check_installed()
    env.register_service("flowers", FlowerClassifier, stateless=True)
    predicted = (
        env.read_csv(str(options.flowers), types=dict.fromkeys(MEASURES, float), name="flower rows")
        .map_async(ask, capacity=64, name="predict")
        .map(row_of, name="rows")
    )
    predicted.map(lambda row: row.get("species", "") in ("", row["predicted"]), name="right").collect("right")
    if options.out is not None:
        predicted.write_csv(str(options.out))
    if options.stays:
        env.from_source(Waiting(), name="until drained").for_each(_nothing)


def ask(flower: dict[str, Any], ctx: RuntimeContext) -> Any:
    """Ask the service; the row goes with the answer."""
    return _with_answer(flower, ctx.service("flowers").classify.remote(flower))


async def _with_answer(flower: dict[str, Any], answer: ServiceFuture) -> tuple[dict[str, Any], Prediction]:
    return flower, await answer


def row_of(both: tuple[dict[str, Any], Prediction]) -> dict[str, Any]:
    """Return a row of the output."""
    flower, prediction = both
    return {**flower, "predicted": prediction.species, "probability": round(prediction.probability, 4)}


def _nothing(record: Any) -> None:
    """There are no records."""


def started(job: JobHandle, options: Options) -> None:
    """Answer by HTTP, too, until the job ends."""
    if options.port is not None:
        served = job.serve_http("flowers", port=options.port, token=os.environ.get("MODEL_TOKEN"))
        print(f"POST {served.url}/classify", file=sys.stderr, flush=True)


def report(result: JobResult, options: Options) -> None:
    """Print how many rows were predicted, and how many of them rightly."""
    right: list[bool] = result.collected["right"]
    print(f"{len(right)} flowers, {sum(right)} predicted as their row says or without a species in it")
    if options.out is not None:
        print(f"predictions: {options.out}")
