# SPDX-License-Identifier: Apache-2.0
"""Findings of a fundus photograph to the vectors that the denoiser is conditioned on. Needs diffusers and torch alone.

Legend: B images, F findings, D width of a vector. A finding that is not told is unknown, -1, and not absent.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

UNKNOWN = -1


class LabelEmbedder(ModelMixin, ConfigMixin):
    """Sum of one embedding a finding, an MLP, and where the denoiser wants another width a projection to it.

    Args:
        findings: {"name": …, "title": for people, "levels": names of level 0, 1, …} of each label column, in order.
        dim: width of the embeddings.
        projection_dim: D; None is `dim`, without a projection.
        map_size: values of a map of the latents that the findings alone foretell, which lies behind the vector and is
            the denoiser's further input; 0 for none.
    """

    @register_to_config
    def __init__(self, findings: list[dict[str, Any]], dim: int, projection_dim: int | None = None, map_size: int = 0):
        super().__init__()
        num_rows = sum(len(finding["levels"]) + 1 for finding in findings)
        self.embedding = nn.Embedding(num_rows, dim)
        self.map_table = nn.EmbeddingBag(num_rows, map_size, mode="sum") if map_size else None
        self.map_mean = nn.Parameter(torch.zeros(map_size)) if map_size else None
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.projection = nn.Linear(dim, projection_dim) if projection_dim else nn.Identity()

    def forward(self, *labels: Tensor) -> Tensor:
        """Each int64 [B, F], -1 for unknown -> the vectors of all of them, one after the other, [n B, D + map_size]."""
        found = self.projection(torch.cat([self.mlp(self.embedding(self._rows(one)).sum(1)) for one in labels]))
        if self.map_table is None:
            return found
        maps = self.map_mean + self.map_table(torch.cat([self._rows(one) for one in labels]))
        return torch.cat([found, maps.to(found.dtype)], dim=1)

    def _rows(self, labels: Tensor) -> Tensor:
        """Labels -> their rows of the tables, [B, F]."""
        rows, first = labels + 1, 0  # row 0 of a finding's table stands for unknown, row 1 + level for a level
        for column, finding in enumerate(self.config.findings):
            rows[:, column] += first
            first += len(finding["levels"]) + 1
        return rows

    @property
    def names(self) -> list[str]:
        """Of the findings, in the order of the label columns."""
        return [finding["name"] for finding in self.config.findings]

    def encode(self, labels: Any) -> Tensor:
        """Findings by name to labels int64 [B, F].

        Args:
            labels: one mapping or a sequence of them, an image each: name or title of a finding -> number or name of
                a level, None for unknown; {} is an image of which nothing is told. Or labels int64 [B, F] as they are.

        Raises:
            ValueError: names, levels or labels that there are not; lists those that there are.
        """
        if isinstance(labels, Tensor):
            return self._checked(labels)
        rows = [labels] if isinstance(labels, Mapping) else labels
        if not isinstance(rows, Sequence) or isinstance(rows, str) or not all(isinstance(row, Mapping) for row in rows):
            raise ValueError(f"labels={labels!r}: give findings by name, as {self._example()}, or a list of such.")
        if not rows:
            raise ValueError(f"labels is empty: give one mapping an image, as {self._example()}; {{}} tells nothing.")
        found = torch.full((len(rows), len(self.config.findings)), UNKNOWN)
        for place, row in enumerate(rows):
            columns = [self._column(key) for key in row]
            twice = [key for key, column in zip(row, columns, strict=True) if columns.count(column) > 1]
            if twice:
                raise ValueError(f"{' and '.join(map(repr, twice))} name the same finding: name it once.")
            for column, level in zip(columns, row.values(), strict=True):
                found[place, column] = self._level(column, level)
        return found

    def _checked(self, labels: Tensor) -> Tensor:
        num = [len(finding["levels"]) for finding in self.config.findings]
        if labels.ndim != 2 or labels.shape[1] != len(num) or labels.dtype != torch.int64 or not len(labels):
            raise ValueError(
                f"labels are {labels.dtype} {list(labels.shape)}; need int64 [B, {len(num)}] with columns "
                f"{', '.join(self.names)}."
            )
        labels = labels.cpu()
        wrong = ((labels < UNKNOWN) | (labels >= torch.tensor(num))).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            raise ValueError(f"labels[{row}, {column}]={labels[row, column]} is no level of {self._levels(column)}.")
        return labels

    def _column(self, key: Any) -> int:
        titles = [slug(finding["title"]) for finding in self.config.findings]
        known = {title: column for column, title in enumerate(titles)} | {
            name: column for column, name in enumerate(self.names)
        }
        if slug(key) in known:
            return known[slug(key)]
        near = difflib.get_close_matches(slug(key), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        told = ", ".join(f"{title} or {name}" for title, name in zip(titles, self.names, strict=True))
        raise ValueError(f"{key!r} is not a finding of this model.{hint} Its findings: {told}.")

    def _level(self, column: int, level: Any) -> int:
        levels = [slug(one) for one in self.config.findings[column]["levels"]]
        if level is None:
            return UNKNOWN
        if isinstance(level, str) and slug(level) in levels:
            return levels.index(slug(level))
        if isinstance(level, int) and not isinstance(level, bool) and UNKNOWN <= level < len(levels):
            return level
        raise ValueError(f"{level!r} is no level of {self._levels(column)}.")

    def _levels(self, column: int) -> str:
        name, levels = self.names[column], self.config.findings[column]["levels"]
        return f"{name!r}: use {', '.join(f'{i} ({level})' for i, level in enumerate(levels))}, or None for unknown"

    def _example(self) -> str:
        return repr({slug(finding["title"]): 1 for finding in self.config.findings[:2]})


def slug(text: Any) -> str:
    """Lower case, and _ for whatever is neither letter nor digit: `Diabetic retinopathy` is diabetic_retinopathy."""
    return re.sub(r"[^a-z0-9]+", "_", str(text).lower()).strip("_")
