"""Which iris a flower is, by a model of scikit-learn that is a service."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final, NamedTuple

from sage_flow import RuntimeContext, Service, batched
from sage_flow.errors import PipelineError

__all__ = ["MEASURES", "FlowerClassifier", "Prediction", "check_installed", "load_model"]

MEASURES: Final = ("sepal_length", "sepal_width", "petal_length", "petal_width")
"""Of a flower, in cm; the order in which the model takes them."""


class Prediction(NamedTuple):
    """A species, and how sure the model is, from 0 to 1."""

    species: str
    probability: float


def check_installed() -> None:
    """Raises PipelineError if scikit-learn is missing."""
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise PipelineError("this needs scikit-learn: pip install scikit-learn") from error


def load_model() -> Any:
    """Train a small model with the flowers that come with scikit-learn; a larger model is read from a file here.

    Every fifth flower is left out: these are the rows of `jobs/flowers.csv`.
    """
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    flowers = load_iris()
    trained = [number for number in range(len(flowers.data)) if number % 5]
    model = make_pipeline(StandardScaler(), LogisticRegression())
    return model.fit(flowers.data[trained], flowers.target_names[flowers.target[trained]])


class FlowerClassifier(Service):
    """Answers with the species of a flower."""

    def open(self, ctx: RuntimeContext) -> None:
        self._model = ctx.resource("flower model", load_model)

    def warm_up(self) -> None:
        """The first prediction of a model takes longer than the others."""
        self.classify(dict.fromkeys(MEASURES, 1.0))

    @batched(max_size=32, max_wait=timedelta(milliseconds=5))
    def classify(self, flowers: list[dict[str, Any]]) -> list[Any]:
        """Return a `Prediction` for each flower; an error for one that lacks a measure, or whose measure is none."""
        faults = [_fault(flower) for flower in flowers]
        rows = [
            [float(flower[name]) for name in MEASURES]
            for flower, fault in zip(flowers, faults, strict=True)
            if not fault
        ]
        predictions = iter(self._predictions(rows))
        return [ValueError(fault) if fault else next(predictions) for fault in faults]

    def _predictions(self, rows: list[list[float]]) -> list[Prediction]:
        if not rows:
            return []
        chances = self._model.predict_proba(rows)
        species = self._model.classes_[chances.argmax(axis=1)].tolist()
        return [Prediction(*one) for one in zip(species, chances.max(axis=1).tolist(), strict=True)]


def _fault(flower: Any) -> str:
    """What is wrong with a flower; nothing if the model can take it."""
    if not isinstance(flower, dict):
        return f"a flower is an object with {', '.join(MEASURES)}, not a {type(flower).__name__}"
    for name in MEASURES:
        value = flower.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 100:
            return f"{name} must be a length in cm, not {value!r}"
    return ""
