"""A law of prevalences and co-occurrences, from a YAML file."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import did_you_mean
from datamodules.files import read_yaml
from datamodules.findings import NAMES, NUM_LEVELS, UNKNOWN, check_name, encode
from datamodules.plan.laws import Chunk, LabelRows, draw, known, number
from datamodules.plan.raking import MarginalConstraint, rake
from datamodules.synthetic.plan import PlanError


class PrevalencesLaw:
    """By a YAML file of prevalences and co-occurrences.

    ```yaml
    base: training             # what the file leaves open follows: training (the training labels), or independent
    prevalences:
      is_gc: 0.3               # share of the images that have it; of a grade the shares of all its levels
      dr_grade: [0.5, 0.1, 0.2, 0.1, 0.1]
    together:                  # shares of images that have several levels; with `among` of the images that have those
      - {is_dme: 1, dr_grade: 4, share: 0.05}
      - {is_dme: 1, among: {dr_grade: 0}, share: 0.0}
    ```

    With `base: independent` the findings that the file names are independent but for `together`, and the generator is
    told of no other.

    Args:
        file: path of the YAML file.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        if not self.file.is_file():
            raise FileNotFoundError(f"plan.file={self.file}: no such file.")
        wanted = read_yaml(self.file, remedy="it must hold the keys prevalences, together and base", error=PlanError)
        self.wanted = {"base": "training", "prevalences": {}, "together": []} | dict(wanted)
        for key in self.wanted:
            if key not in ("base", "prevalences", "together"):
                hint = did_you_mean(key, ["base", "prevalences", "together"])
                raise PlanError(f"{self.file}: unknown key {key!r}.{hint} Known: base, prevalences, together.")
        if self.wanted["base"] not in ("training", "independent"):
            raise PlanError(f"{self.file}: base is {self.wanted['base']!r}, and must be training or independent.")
        shares, together = self._of_kind("prevalences", Mapping) or {}, self._of_kind("together", list) or []
        self._shares = {self._name(name): self._levels(name, share) for name, share in shares.items()}
        self._together = [self._pair(number, item) for number, item in enumerate(together)]
        if not self._shares and not self._together:
            raise PlanError(f"{self.file} asks for nothing: give prevalences, or together.")

    def chunks(self, num_images: int | None, seed: int, seen: LabelRows | None) -> Iterator[Chunk]:
        """As a Law."""
        rows = known(seen) if self.wanted["base"] == "training" else self._product()
        wishes = []
        everywhere = np.ones(len(rows.labels), dtype=bool)
        for name, shares in self._shares.items():
            for level, share in enumerate(shares):
                those = rows.labels[:, NAMES.index(name)] == level
                wishes.append(MarginalConstraint(those, everywhere, share, f"{self.file}: {name}={level}"))
        for those, among, share, text in self._together:
            wishes.append(
                MarginalConstraint(
                    _having(rows.labels, those), _having(rows.labels, among), share, f"{self.file}: {text}"
                )
            )
        return draw(rows.labels, rake(rows.counts, wishes), number(num_images), seed)

    def _product(self) -> LabelRows:
        """Every combination of the levels of the findings that are named, each once; of others nothing is said."""
        named = dict.fromkeys([*self._shares, *(name for one in self._together for name in (*one[0], *one[1]))])
        levels = list(itertools.product(*(range(NUM_LEVELS[name]) for name in named)))
        labels = np.full((len(levels), len(NAMES)), UNKNOWN, dtype=np.int8)
        labels[:, [NAMES.index(name) for name in named]] = levels
        return LabelRows(labels, np.ones(len(labels), dtype=np.int64))

    def _of_kind(self, key: str, kind: type) -> Any:
        value = self.wanted[key]
        if value is not None and not isinstance(value, kind):
            said = "a list of mappings" if kind is list else "a mapping of findings to shares"
            raise PlanError(f"{self.file}: {key} is {value!r}, and must be {said}.")
        return value

    def _name(self, name: Any) -> str:
        try:
            return check_name(str(name))
        except ValueError as error:
            raise PlanError(f"{self.file}: {error}") from None

    def _levels(self, name: str, value: Any) -> list[float]:
        """Shares of all levels of a finding."""
        shares = value if isinstance(value, list) else [1 - self._share(name, value), value]
        if len(shares) != NUM_LEVELS[name]:
            raise PlanError(
                f"{self.file}: {name} has {NUM_LEVELS[name]} levels, and {value!r} gives the shares of {len(shares)}."
            )
        shares = [self._share(name, share) for share in shares]
        if abs(sum(shares) - 1) > 1e-6:
            raise PlanError(f"{self.file}: the shares of {name}, {value!r}, add up to {sum(shares):g}, and must to 1.")
        return shares

    def _share(self, where: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise PlanError(f"{self.file}: {where} is {value!r}, and must be a share, 0 to 1.")
        return float(value)

    def _pair(self, number: int, item: Any) -> tuple[dict[str, int], dict[str, int], float, str]:
        where = f"together[{number}]"
        if not isinstance(item, Mapping) or "share" not in item or not isinstance(item.get("among", {}), Mapping):
            raise PlanError(
                f"{self.file}: {where} is {item!r}, and must be as {{is_dme: 1, dr_grade: 4, share: 0.05}}."
            )
        those = {str(name): level for name, level in item.items() if name not in ("share", "among")}
        among = {str(name): level for name, level in item.get("among", {}).items()}
        for levels in (those, among):
            try:
                encode(levels)
            except ValueError as error:
                raise PlanError(f"{self.file}: {where}: {error}") from None
        if not those:
            raise PlanError(f"{self.file}: {where} names no finding.")
        said = " and ".join(f"{name}={level}" for name, level in those.items())
        given = f" among {' and '.join(f'{name}={level}' for name, level in among.items())}" if among else ""
        return those, among, self._share(where, item["share"]), f"{said}{given}"

    def describe(self) -> dict[str, Any]:
        """As a Law."""
        return {"law": "prevalences", **self.wanted}


def _having(labels: np.ndarray, levels: Mapping[str, int]) -> np.ndarray:
    """Rows that have all these levels, bool [K]."""
    found = np.ones(len(labels), dtype=bool)
    for name, level in levels.items():
        found &= labels[:, NAMES.index(name)] == level
    return found
