"""`Estimate`: a figure with its interval, what it was measured on, and which direction is better.

Every metric yields one. It has one form in JSON and one in print.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Better = Literal["max", "min"]

NUMBERS = ("value", "low", "high")
SIZES = ("num_images", "num_patients", "num_positive")  # in JSON they stand once, beside the metrics of a finding
SHAPE = {f"{name}?": float for name in NUMBERS}  # of a figure in JSON, as `misfit` reads it
FACTS = ("extractor", "seed", "why")  # in JSON where there is one
UNDEFINED = "undefined"


@dataclass(frozen=True)
class Estimate:
    """A figure of one metric. A number that is undefined is NaN.

    Attributes:
        value: the figure itself.
        low, high: bounds of its 95 % interval, NaN where there is none.
        name: of the metric, such as auroc.
        better: which direction is better; None where neither is.
        num_images, num_patients: what it was measured on.
        num_positive: images that show the finding.
        num_seeds, deviation: of a mean over seeds: how many there are, and their sample standard deviation.
        extractor: whose features it was measured with.
        seed: of the images that it was measured on.
        why: why the value is undefined.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    name: str = ""
    better: Better | None = None
    num_images: int | None = None
    num_patients: int | None = None
    num_positive: int | None = None
    num_seeds: int | None = None
    deviation: float = math.nan
    extractor: str | None = None
    seed: int | None = None
    why: str | None = None

    def __str__(self) -> str:
        """`0.812 [0.750, 0.870]`; `0.812` without an interval; `undefined`."""
        if math.isnan(self.value):
            return UNDEFINED
        return f"{self.value:.3f}" + ("" if math.isnan(self.low) else f" {self.interval()}")

    def interval(self, shown: Callable[[float], str] = "{:.3f}".format) -> str:
        """`[0.750, 0.870]`, or `undefined`; `shown` prints a bound."""
        return UNDEFINED if math.isnan(self.low) else f"[{shown(self.low)}, {shown(self.high)}]"

    def json(self) -> dict[str, Any]:
        """`value`, `low`, `high`, null where undefined; then `extractor`, `seed`, `why`, where there is one."""
        numbers = {name: number if math.isfinite(number := getattr(self, name)) else None for name in NUMBERS}
        return numbers | {name: fact for name in FACTS if (fact := getattr(self, name)) is not None}

    @classmethod
    def from_json(cls, found: Mapping[str, Any], **facts: Any) -> "Estimate":
        """Read what `json` gave; a number that is null or absent is NaN. `facts` are further attributes."""
        numbers = {name: math.nan if found.get(name) is None else found[name] for name in NUMBERS}
        return cls(**numbers, **{name: found.get(name) for name in FACTS}, **facts)


def to_json(found: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Any]:
    """Findings, each with one metric at least: the sizes of a finding, then each figure by the name of its metric."""
    result = {}
    for finding, metrics in found.items():
        first = next(iter(metrics.values()))
        sizes = {name: getattr(first, name) for name in SIZES}
        result[finding] = sizes | {name: one.json() for name, one in metrics.items()}
    return result


def from_json(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Estimate]]:
    """Read what `to_json` gave; what is no figure is left out."""
    result = {}
    for finding, content in found.items():
        sizes = {name: content.get(name) for name in SIZES}
        figures = {name: one for name, one in content.items() if isinstance(one, Mapping)}
        result[finding] = {name: Estimate.from_json(one, name=name, **sizes) for name, one in figures.items()}
    return result
